"""Long answers: each held-out row is given the room that its expected answer takes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest

from runner.training.data.questions import ASKED, Question
from runner.training.evaluate import measure_answers
from runner.training.evaluate.generate import Prompt
from runner.training.evaluate.measure_answers import (
    ADAPTER,
    BASE,
    Answered,
    Room,
    Who,
    answer_all,
    longest_answer,
    most_alike,
)
from runner.training.evaluate.scores import Answer


def question(row: int, tokens: int) -> Question:
    """A row whose expected answer has so many tokens."""
    return Question(
        row=row, part=ASKED, messages=[], reference="", identity=str(row), tokens=tokens
    )


class Writer:
    """Writes nothing and notes what room it was given; after some turns its time is over."""

    tokenizer = None
    batch_size = 4

    def __init__(self, turns: int = 100) -> None:
        self.given: list[list[int]] = []
        self.turns = turns

    @property
    def is_late(self) -> bool:
        return len(self.given) >= self.turns

    def answers(self, prompts: Sequence[Prompt]) -> list[Answer | None]:
        self.given.append([prompt.limit for prompt in prompts])
        return [Answer(text="", stopped=True) for _ in prompts]


def answered(
    writer: Writer, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> list[Answered]:
    """Let base and adapter answer."""
    monkeypatch.setattr(measure_answers, "prompt_ids", lambda *_: [[1, 2, 3]])
    everybody = [Who(name=n, switched_on=contextlib.nullcontext) for n in (BASE, ADAPTER)]
    return answer_all(writer, everybody, questions, Room(context=100_000))


@pytest.mark.parametrize("tokens", [1, 600, 1_000, 1_024, 1_500, 2_500, 4_000])
def test_an_answer_has_the_room_of_the_expected_one(tokens: int) -> None:
    """Cut off before its end, no answer could be right, and a right one would count as worse."""
    assert longest_answer(question(0, tokens)) > tokens


def test_long_answers_come_last_and_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a turn without short ones, whose time they would take; all are answered once."""
    writer = Writer()
    rows = [question(n, 2_000 if n in (0, 3) else 10) for n in range(7)]
    found = answered(writer, rows, monkeypatch)
    assert [one.question.row for one in found] == [1, 2, 4, 5, 6, 0, 3]
    assert [len(limits) for limits in writer.given] == [4, 4, 1, 1, 2, 2]
    assert [max(limits) > 2_000 for limits in writer.given] == [False] * 4 + [True] * 2


def test_short_answers_count_where_the_time_ends_before_the_long_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One row with a long answer does not cost the figures of all others."""
    rows = [question(n, 2_000 if n == 0 else 10) for n in range(5)]
    found = answered(Writer(turns=2), rows, monkeypatch)
    assert [one.question.row for one in found] == [1, 2, 3, 4]


def test_answers_are_alike_whatever_their_blanks() -> None:
    """And however a letter is encoded; of none, none."""
    assert most_alike(["a b", " a  b\n", "b", "u\u0308", "\u00fc"]) == 2
    assert most_alike([]) == 0
