"""Recital: how many learned rows an adapter writes on word for word from their first half.

Adapters leave the house, and what they recite leaves with them. Held-out rows are begun as well:
what is recited of those was not learned by heart, but follows from the form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from runner.contract.evaluation import Recital
from runner.training.data.questions import ASKED, BEGUN, RECITED, Question
from runner.training.evaluate.adapted import Adapted
from runner.training.evaluate.answers import prompt_ids
from runner.training.evaluate.generate import Generator, Prompt

_LEAST_TOKENS = 24  # of an answer: half of it must be more than a turn of phrase
_MOST_TOKENS = 400  # of an answer that is begun; the rest of it would cost much and show little
_BEYOND_CHANCE = 1.96  # standard errors between two shares: 95%
_TO_DO = (
    "Anyone with the adapter can get these rows out of it. Fewer epochs or more rows make it less."
)
_LEAST_SHARE = 0.05  # of the learned rows; fewer are told by the figures alone


def begun(tokenizer: object, question: Question) -> tuple[Prompt, str] | None:
    """Give a row's question with half of its answer, and how it goes on; None: it is too short."""
    ids = tokenizer(question.reference, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
    ids = ids[:_MOST_TOKENS]
    if len(ids) < _LEAST_TOKENS:
        return None
    (asked,) = prompt_ids(tokenizer, [question.messages])
    half = len(ids) // 2
    rest = str(tokenizer.decode(ids[half:], skip_special_tokens=True))  # type: ignore[attr-defined]
    return Prompt(ids=asked + ids[:half], limit=len(ids) - half), rest


def count_recited(generator: Generator, questions: Sequence[Question]) -> tuple[int, int]:
    """Count rows that are written on word for word, and rows that were begun in time."""
    pairs = [one for q in questions if (one := begun(generator.tokenizer, q)) is not None]
    answers = generator.answers([prompt for prompt, _ in pairs])
    both = [
        (answer.text, rest)
        for answer, (_, rest) in zip(answers, pairs, strict=True)
        if answer is not None
    ]
    return sum(text.split() == rest.split() for text, rest in both), len(both)


def measure_recital(
    adapted: Adapted, generator: Generator, questions: Sequence[Question]
) -> Recital | None:
    """Begin learned rows with and without the adapter, and held-out ones with it.

    None: no row is long enough, or the time was over.
    """
    learned = [one for one in questions if one.part == BEGUN][:RECITED]
    held_out = [one for one in questions if one.part == ASKED][:RECITED]
    by_adapter, rows = count_recited(generator, learned)
    of_held_out, held_out_rows = count_recited(generator, held_out)
    with adapted.base():
        by_base, base_rows = count_recited(generator, learned)
    if not rows or base_rows < rows:
        return None
    return Recital(
        learned_rows=rows,
        by_adapter=by_adapter,
        by_base=by_base,
        held_out_rows=held_out_rows,
        held_out_by_adapter=of_held_out,
    )


def told_of(found: Recital) -> list[str]:
    """Say that rows are recited, where more are than follows from their form."""
    if not is_by_heart(found):
        return []
    said = (
        f"The adapter recites {found.by_adapter} of {found.learned_rows} learned rows word for "
        f"word from their first half (the base {found.by_base}; of rows that it never saw "
        f"{found.held_out_by_adapter} of {found.held_out_rows}). {_TO_DO}"
    )
    return [said]


def is_by_heart(found: Recital) -> bool:
    """Whether more learned rows are recited than base and held-out rows explain."""
    rows = found.learned_rows
    share = found.by_adapter / rows if rows else 0.0
    others = [(found.by_base, rows), (found.held_out_by_adapter, found.held_out_rows)]
    for recited, of in others:
        if not of:
            continue
        together = (found.by_adapter + recited) / (rows + of)
        error = math.sqrt(together * (1 - together) * (1 / rows + 1 / of))
        if share - recited / of <= _BEYOND_CHANCE * error:
            return False
    return share >= _LEAST_SHARE
