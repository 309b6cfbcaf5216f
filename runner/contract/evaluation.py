"""Evaluation: scores of an adapter beside its base's and the current adapter's, row by row.

`evaluation/scores.jsonl` has one line for each held-out row and score, with no text of the row, so
that two runs can be compared on the rows that both were measured on. The record has the summary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from runner.files.durable import write_bytes
from runner.files.plain import read_plain

LOSS = "loss"
"""The score that every evaluation with held-out rows has: nats per learned token of a row."""
ASKED = "asked"
"""The mean of the scores that decide, where there are several."""
STOPS = "stops_by_itself"
"""The score that says whether an answer ends, and does not only grow too long."""
TASK = "task."
"""How the axis of a task of lm-evaluation-harness begins, whose names are anybody's."""
GENERAL = "general"
"""The axis of the spec's own file of questions."""
_SCORES_BYTES = 256 * 1024 * 1024  # of a million rows with two scores; more is not ours

Form = Literal["as_trained", "original"]
"""The base that the adapter stood on: as it was trained on (NF4 for qlora), or in 16 bits."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Difference(_Part):
    """How much better one of two is on the same rows: above zero, the adapter is better.

    For a score of which less is better (a loss), the sign is turned: above zero is better always.
    """

    difference: float
    low: float | None = None
    """Where it lies with 95% confidence; None: too few rows."""
    high: float | None = None
    rows: int = 0

    @property
    def is_better(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.low is not None and self.low > 0

    @property
    def is_worse(self) -> bool:
        """Whether the whole interval is below zero."""
        return self.high is not None and self.high < 0


class ScoreSummary(_Part):
    """One score over the held-out rows, and how the adapter differs from its base in it."""

    name: str
    base: float | None = None
    adapter: float | None = None
    examples: float | None = None
    """The base with examples in its prompt."""
    current: float | None = None
    """The adapter in use, on the rows that it was not trained on."""
    difference: float | None = None
    """Adapter against base; above zero is better, whatever the score."""
    low: float | None = None
    """Where the difference lies with 95% confidence; None: too few rows."""
    high: float | None = None
    rows: int = 0
    lower_is_better: bool = False
    is_share: bool = True
    """Each row has it or has it not, or has a share of it: 0 to 1."""
    against_current: Difference | None = None
    """Adapter against the adapter in use, on the rows that neither was trained on."""
    against_examples: Difference | None = None
    """Adapter against the base with examples in its prompt."""


class Confusion(_Part):
    """How often one value of the taxonomy stood where another was expected; no text of a row."""

    field: str
    expected: str
    given: str
    """A value of the taxonomy, or what is said for a missing or unknown one."""
    times: int


class Recital(_Part):
    """How many rows are written on word for word from their first half."""

    learned_rows: int = 0
    by_adapter: int = 0
    """Of the learned rows."""
    by_base: int = 0
    held_out_rows: int = 0
    held_out_by_adapter: int = 0


class Axis(_Part):
    """One thing that a base can do, before and after the training."""

    name: str
    base: float
    adapter: float
    difference: float
    """Above zero is better, whatever is measured."""
    low: float | None = None
    high: float | None = None
    noise: float = 0.0
    """How far two measurements of the same model lay apart on this card."""
    items: int = 0
    lower_is_better: bool = False
    has_fallen: bool = False
    """By more than chance and noise explain."""


class Evaluation(_Part):
    """What was measured of an adapter."""

    form: Form = "as_trained"
    """The form that the verdict goes by: as the job says that it will serve."""
    scores: tuple[ScoreSummary, ...] = ()
    """On that form; the loss first."""
    other_form: tuple[ScoreSummary, ...] = ()
    """The same scores on the other form, where it was measured too."""
    held_out_rows: int = 0
    answered_rows: int = 0
    """Of these, the ones whose answers were generated."""
    answered_questions: int = 0
    """Of the answered rows, those that ask something else than the ones before them."""
    same_answers: int = 0
    """Of these, the ones to which the adapter gave its most frequent answer."""
    same_expected: int = 0
    """Of these, the ones of which the most frequent answer was expected."""
    examples: int = 0
    """Rows shown in the prompt of the base with examples."""
    deciding: tuple[str, ...] = ()
    """Scores that the verdict goes by, the first one first; none: the loss decides."""
    primary: str | None = None
    """The score that is compared: the only one that decides, or the mean of those that do."""
    confusions: tuple[Confusion, ...] = ()
    recital: Recital | None = None
    axes: tuple[Axis, ...] = ()
    """What was measured of the base's other abilities."""
    wanted_axes: tuple[str, ...] = ()
    """What was to be measured of them; none: the spec does without, or there is no card for it."""

    @property
    def unknown_axes(self) -> tuple[str, ...]:
        """What was to be measured of the base's other abilities, and was not."""
        measured = {one.name for one in self.axes}
        return tuple(name for name in self.wanted_axes if name not in measured)

    def score(self, name: str) -> ScoreSummary | None:
        """Find a score by its name."""
        return next((one for one in self.scores if one.name == name), None)


class RowScore(_Part):
    """One score of one held-out row."""

    row: str
    """A hash of all that the row says: the same in every run that has the row."""
    score: str
    base: float | None = None
    adapter: float | None = None
    examples: float | None = None
    current: float | None = None
    """None: the adapter in use was trained on this row, or there is none."""


def write_row_scores(path: Path, scores: Iterable[RowScore]) -> None:
    """Write `evaluation/scores.jsonl`."""
    lines = (one.model_dump_json(exclude_none=True) + "\n" for one in scores)
    write_bytes(path, "".join(lines).encode())


def read_row_scores(path: Path) -> list[RowScore]:
    """Read `evaluation/scores.jsonl`; nothing where there is none, or it is damaged."""
    try:
        content = read_plain(path, limit_bytes=_SCORES_BYTES)
        found = [RowScore.model_validate(json.loads(line)) for line in content.splitlines()]
    except (OSError, ValueError, ValidationError, RecursionError):
        return []
    return [one for one in found if all(map(math.isfinite, _values(one)))]


def _values(one: RowScore) -> list[float]:
    found = (one.base, one.adapter, one.examples, one.current)
    return [value for value in found if value is not None]
