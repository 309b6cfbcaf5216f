"""Holds rows out by their prompt: the same ones however the data grows."""

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from runner.training.data.conversation import Conversation
from runner.training.data.split import normalised_prompt, position, shared_prompts, split


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


def test_questions_on_both_sides_are_counted():
    """A held-out file may repeat what is learned."""
    assert shared_prompts(asked("a", "b"), asked("B ", "c")) == 1
