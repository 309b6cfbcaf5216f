"""Questions for the evaluation: rows as they are asked, with the answer that the data expects.

`prepared/questions.jsonl` holds held-out rows in the order in which they are answered, rows for the
prompt of the base with examples, and learned rows that are begun to see whether they are recited.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from runner.files.durable import write_bytes
from runner.training.data.conversation import Conversation
from runner.training.data.template_facts import TemplateFacts
from runner.training.data.token_table import HELD_OUT, TRAIN, Rows

FILE = "questions.jsonl"
MOST_ANSWERED = 100
"""Held-out rows answered where the spec names no number: they show about 16 points."""
ALWAYS = 3  # held-out questions that every run answers, for people to read
RECITED = 40  # learned rows begun, and as many held-out ones
_RECITAL_TOKENS = 24  # learned, at least: half of it must be more than a turn of phrase
_SPARE = 5  # times as many examples as are asked for, so that short ones can be chosen

ASKED, EXAMPLE, BEGUN = "held_out", "example", "learned"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One row, as a model is asked it."""

    row: int
    """Its place in the data."""
    part: str
    """`ASKED`, `EXAMPLE` or `BEGUN`."""
    messages: list[dict[str, Any]]
    reference: str
    identity: str = ""
    """A hash of all that the row says."""
    cluster: str = ""
    """A hash of its question."""
    file: int = 0
    """Its file's place among the data files."""
    tokens: int = 0
    """Of all that is learned of the row."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How many rows of each kind are chosen."""

    answered: int
    examples: int
    seed: int
    answered_for_people: int = field(default=ALWAYS)


def choose(rows: Rows, part: Any, wanted: Wanted) -> dict[str, list[int]]:
    """Choose rows by their places in the tables: always the same for a seed."""
    dice = np.random.default_rng(wanted.seed)
    asked = np.flatnonzero((part == HELD_OUT) & rows.askable)
    first, rest = asked[: wanted.answered_for_people], asked[wanted.answered_for_people :]
    more = dice.permutation(rest)[: max(0, wanted.answered - len(first))]
    learned = np.flatnonzero((part == TRAIN) & rows.askable)
    learned = dice.permutation(learned)
    # Long examples would push the question out of the prompt.
    spare = learned[: wanted.examples * _SPARE * 4]
    short = spare[np.argsort(rows.tokens[spare], kind="stable")][: wanted.examples * _SPARE]
    short = dice.permutation(short)[: wanted.examples]
    begun = learned[rows.learned[learned] >= _RECITAL_TOKENS][:RECITED]
    found = {ASKED: [*first.tolist(), *more.tolist()], EXAMPLE: short.tolist()}
    return {**found, BEGUN: begun.tolist()}


def write_questions(
    target: Path,
    template: TemplateFacts,
    found: Mapping[int, Conversation],
    chosen: tuple[Rows, dict[str, list[int]]],
) -> None:
    """Write the chosen rows down.

    Args:
        target: the file.
        template: how a question is put.
        found: rows that were read again, by their places in the data.
        chosen: what is known of them, and which of them belong to each part.
    """
    rows, places = chosen
    lines = [
        json.dumps(asdict(_question(rows, at, part, found[int(rows.row[at])], template)))
        for part, some in places.items()
        for at in some
        if int(rows.row[at]) in found
    ]
    write_bytes(target, "".join(f"{line}\n" for line in lines).encode(errors="replace"))


def _question(
    rows: Rows, at: int, part: str, row: Conversation, template: TemplateFacts
) -> Question:
    return Question(
        row=int(rows.row[at]),
        part=part,
        messages=template.prompt_messages(row),
        reference=row.messages[-1]["content"],
        identity=f"{int(rows.content[at]):016x}",
        cluster=float(rows.place[at]).hex(),
        file=int(rows.file[at]),
        tokens=int(rows.learned[at]),
    )


def read_questions(prepared: Path) -> list[Question]:
    """Read the questions; an older runner left three to be answered, and nothing more."""
    try:
        lines = (prepared / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return list(_older(prepared))
    return [Question(**json.loads(line)) for line in lines]


def _older(prepared: Path) -> Iterator[Question]:
    try:
        samples = json.loads((prepared / "samples.json").read_bytes())
    except FileNotFoundError:
        return
    for number, one in enumerate(samples):
        reference = str(one["reference"])
        tokens = math.ceil(len(reference) / 3)
        yield Question(
            row=-1 - number,
            part=ASKED,
            messages=one["messages"],
            reference=reference,
            tokens=tokens,
            cluster=str(number),
        )
