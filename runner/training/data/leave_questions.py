"""Leave the questions: held-out rows that are asked before and after, and in the evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from runner.files.durable import write_json
from runner.spec.spec import JobSpec
from runner.training.data.conversation import Conversation
from runner.training.data.flow import Flowed, Source, first_rules, read_again
from runner.training.data.formats import UNDECIDED
from runner.training.data.questions import (
    ALWAYS,
    FILE,
    MOST_ANSWERED,
    Wanted,
    choose,
    write_questions,
)
from runner.training.data.template_facts import TemplateFacts
from runner.training.data.token_cache import SAMPLES_FILE
from runner.training.data.token_table import HELD_OUT, Rows

SAMPLES = 3  # held-out questions that are answered before and after


def leave_questions(
    folder: Path,
    template: TemplateFacts,
    source: Source,
    flowed: Flowed,
    parted: tuple[Rows, Any],
) -> None:
    """Read the rows that are asked once more, and write them as questions."""
    rows, part = parted
    if flowed.rules is UNDECIDED:  # the tokens are those of an earlier run
        flowed.rules = first_rules(source)
    sampled = np.flatnonzero((part == HELD_OUT) & rows.askable)[:SAMPLES].tolist()
    chosen = choose(rows, part, rows_wanted(source.spec))
    wanted = sorted({at for some in (sampled, *chosen.values()) for at in some})
    asked = rows.few(wanted)
    lines = {int(row): int(line) for row, line in zip(asked.row, asked.line, strict=True)}
    read = read_again(source, flowed.rules, flowed.counts, sorted(lines), lines)
    found = {conversation.row: conversation for conversation in read}
    samples = [found[n] for n in map(int, rows.few(sampled).row) if n in found]
    write_json(folder / SAMPLES_FILE, [_sample(template, one) for one in samples])
    number = {at: place for place, at in enumerate(wanted)}
    places = {part: [number[at] for at in some] for part, some in chosen.items()}
    write_questions(folder / FILE, template, found, (asked, places))


def rows_wanted(spec: JobSpec) -> Wanted:
    """Say how many rows are put down for the evaluation."""
    wish = spec.evaluation
    answered = MOST_ANSWERED if wish.samples == "auto" else wish.samples
    return Wanted(
        answered=answered,
        examples=wish.examples,
        seed=wish.seed,
        answered_for_people=min(ALWAYS, answered),
    )


def _sample(template: TemplateFacts, row: Conversation) -> dict[str, Any]:
    """Give a held-out question, to be answered before and after."""
    return {"messages": template.prompt_messages(row), "reference": row.messages[-1]["content"]}
