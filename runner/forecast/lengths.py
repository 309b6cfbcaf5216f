"""Lengths of the rows, in a form whose size does not grow with the data.

Prepare knows every row's length. The daemon plans from this summary, so that a spec with a million
rows takes it no longer than one with a hundred.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveInt

from runner.files.durable import write_json

STEPS = 1024
"""Lengths told apart. An office's data (800 contracts) has fewer, and nothing is rounded. Beyond
that lengths are rounded up by the same share each: by 0.7% where the longest row has 1,000 times
the tokens of the shortest. More would be finer than the forecast is (1.9%), and 1,024 keep the
choice of a plan within 50 ms."""
SUMMARY_BYTES = 8 * 1024 * 1024
"""A larger file is not read: one with 1,024 lengths has 50 KiB. An older runner wrote a number for
each row; of more than a million rows the plan is then not forecast."""


class Lengths(BaseModel):
    """How many rows there are of which length."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    steps: tuple[tuple[PositiveInt, PositiveInt], ...]
    """Tokens and how many rows have so many, the longest first; never empty."""
    tokens: PositiveInt
    """Of all rows together, not rounded."""
    rounded: bool = False
    """Whether lengths that are nearly the same were taken for one."""

    @classmethod
    def of(cls, lengths: Iterable[int]) -> Lengths:
        """Sum up the rows' lengths."""
        return cls.counted(Counter(max(1, int(length)) for length in lengths))

    @classmethod
    def counted(cls, counted: Mapping[int, int]) -> Lengths:
        """Sum them up from how many rows have each length."""
        counted = counted or {1: 1}
        exact = sorted(counted.items(), reverse=True)
        total = sum(length * rows for length, rows in exact)
        steps = exact if len(exact) <= STEPS else _rounded(exact)
        return cls(steps=tuple(steps), tokens=total, rounded=steps is not exact)

    @property
    def longest(self) -> int:
        """Tokens of the longest row: never rounded."""
        return self.steps[0][0]

    def __hash__(self) -> int:
        # What is worked out from the lengths is kept for the next plan: this must not be slow.
        return hash((self.tokens, len(self.steps), self.steps[0]))

    @cached_property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(rows for _, rows in self.steps)

    @property
    def mean(self) -> float:
        """Tokens of a row on average."""
        return self.tokens / self.rows

    def cut(self, length: int) -> Lengths:
        """Give the lengths of the same rows, cut to so many tokens."""
        kept = [step for step in self.steps if step[0] <= length]
        longer = self.rows - sum(rows for _, rows in kept)
        steps = ([(length, longer)] if longer else []) + kept
        lost = sum((tokens - length) * rows for tokens, rows in self.steps if tokens > length)
        return self.model_copy(
            update={"steps": tuple(steps), "tokens": max(self.rows, self.tokens - lost)}
        )

    def longer_than(self, length: int) -> int:
        """Count the rows that are longer."""
        return sum(rows for tokens, rows in self.steps if tokens > length)


def _rounded(exact: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Take lengths that are nearly the same for the longest of them: a forecast is never lower."""
    longest, shortest = exact[0][0], exact[-1][0]
    share = math.log(longest / shortest) / STEPS
    steps: list[tuple[int, int]] = []
    last = -1
    for tokens, rows in exact:
        place = min(STEPS - 1, int(math.log(longest / tokens) / share))
        if place == last:
            steps[-1] = (steps[-1][0], steps[-1][1] + rows)
        else:
            steps.append((tokens, rows))
        last = place
    return steps


def write_lengths(path: Path, lengths: Iterable[int] | Lengths) -> None:
    """Leave the summary for the daemon."""
    summary = lengths if isinstance(lengths, Lengths) else Lengths.of(lengths)
    write_json(path, summary.model_dump(mode="json"))


def read_lengths(path: Path) -> Lengths | None:
    """Read the summary; None where there is none that can be used."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(SUMMARY_BYTES + 1))
        if isinstance(content, list):  # of an older runner: every row's length, in their order
            return Lengths.of(content)
        found = Lengths.model_validate(content)
    except (OSError, ValueError, TypeError):
        return None
    return found if found.steps else None
