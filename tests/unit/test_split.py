"""Holds rows out by their prompt: the same ones however the data grows."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.training.data.conversation import Conversation
from runner.training.data.split import normalised_prompt, position, split


def asked(*questions):
    """Make one conversation a question."""
    return [
        Conversation(
            file="f",
            line=row + 1,
            row=row,
            messages=(
                {"role": "user", "content": question},
                {"role": "assistant", "content": f"answer {row}"},
            ),
        )
        for row, question in zip(count(), questions, strict=False)
    ]


@given(st.lists(st.text(max_size=8), max_size=60), st.lists(st.text(max_size=8), max_size=60))
def test_a_row_held_out_stays_so_while_the_data_grows(before, more):
    """Rows are judged one by one (once there are enough for the share)."""
    small, large = split(asked(*before), 0.2), split(asked(*before, *more), 0.2)
    if not small.borrowed and small.held_out:
        assert set(small.held_out) == {row for row in large.held_out if row < len(before)}
    assert sorted(small.train + small.held_out) == list(range(len(before)))


def test_the_share_is_about_what_was_asked_for():
    """Two thousand prompts, one in twenty."""
    parts = split(asked(*(f"question {n}" for n in range(2000))), 0.05)
    assert 70 <= len(parts.held_out) <= 130


@pytest.mark.parametrize(
    ("rows", "least", "most"),
    [(10, 2, 2), (99, 19, 19), (400, 80, 80), (500, 100, 100), (800, 100, 100), (1900, 100, 130)],
)
def test_enough_rows_are_held_out_to_show_something(rows: int, least: int, most: int) -> None:
    """Where the spec says nothing: 5%, at least 100 where that is at most a fifth."""
    parts = split(asked(*(f"question {n}" for n in range(rows))), None)
    assert least <= len(parts.held_out) <= most
    assert not parts.borrowed
    assert len(parts.held_out) + len(parts.train) == rows


def test_large_data_holds_out_its_usual_share() -> None:
    """From 2,000 rows on it is those below 5%, however the data grows."""
    questions = asked(*(f"question {n}" for n in range(9000)))
    small, large = split(questions[:4000], None), split(questions, None)
    assert small.held_out == split(questions[:4000], 0.05).held_out
    assert set(small.held_out) == {row for row in large.held_out if row < 4000}


def test_growing_data_moves_no_row_from_learned_to_held_out() -> None:
    """An earlier adapter that is measured on the new held-out rows has not learned them."""
    questions = asked(*(f"question {n}" for n in range(2500)))
    for rows in range(500, 2500, 100):
        before, after = split(questions[:rows], None), split(questions[: rows + 100], None)
        assert not set(before.train) & set(after.held_out)


def test_a_prompt_that_most_rows_share_is_learned() -> None:
    """Holding it out would take more than a fifth of the rows from training."""
    parts = split(asked(*["the same"] * 60, *(f"question {n}" for n in range(40))), None)
    assert 1 <= len(parts.held_out) <= 20
    assert set(range(60)) <= set(parts.train)


def test_the_place_of_a_prompt_never_changes():
    """Another place would move rows of people's data from held out to learned."""
    assert round(position("may i build a wall?"), 12) == 0.795837438241


def test_duplicates_fall_together():
    """Case, spaces and Unicode forms make no other prompt."""
    (one, two, three) = asked("May I  build a Wäll?", "may i build a wa\u0308ll? ", "Another")
    assert normalised_prompt(one) == normalised_prompt(two) != normalised_prompt(three)


def test_few_rows_still_hold_one_out():
    """Unless nothing would be left to learn, or none are wanted."""
    parts = split(asked("a", "b", "c"), 0.0001)
    assert len(parts.held_out) == 1
    assert parts.borrowed
    assert split(asked("a", "a"), 0.0001).held_out == ()
    assert split(asked("a", "b"), 0).held_out == ()
    assert split([], 0.05).train == ()
