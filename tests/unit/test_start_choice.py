"""Where `start_from` is left to the box: on from the adapter in use, or afresh, and the words."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from runner.contract.start_choice import (
    MOST_GOINGS_ON,
    REPLAY,
    StartFacts,
    Why,
    choose_by_itself,
    sentence,
)
from runner.language.speaker import Language, Speaker
from runner.language.translate import translated

GERMAN = Speaker(Language.GERMAN)
GROWN: dict[str, Any] = {"run_id": "20261120T010203Z-ab2c", "old": 40, "new": 30}


def test_data_that_has_grown_goes_on() -> None:
    """As measured: from an adapter whose rows all stand in the data, with a third of them again."""
    choice = choose_by_itself(StartFacts(**GROWN))
    assert choice.goes_on
    assert (choice.why, choice.run_id, choice.count, choice.old) == (
        "grown",
        "20261120T010203Z-ab2c",
        30,
        40,
    )
    assert REPLAY == 0.3  # docs/measurements.md


@pytest.mark.parametrize(
    ("facts", "why", "count"),
    [
        ({"usual_settings": False}, "settings", 0),
        ({"same_spec": False}, "other_spec", 0),
        ({"fits": False}, "does_not_fit", 0),
        ({"went_on": True}, "went_on", 0),
        ({"goings_on": MOST_GOINGS_ON}, "due", MOST_GOINGS_ON),
        ({"goings_on": MOST_GOINGS_ON + 1}, "due", MOST_GOINGS_ON + 1),
        ({"rows_known": False}, "unknown_rows", 0),
        ({"gone": 1}, "rows_gone", 1),
        ({"held_out": 1}, "held_out", 1),
        ({"new": 0}, "nothing_new", 0),
        ({"old": 0, "new": 0}, "nothing_new", 0),
        ({"new": 19}, "growth", 19),
        ({"new": 41}, "growth", 41),
        ({"old": 0, "new": 1}, "growth", 1),
        ({"new": 20}, "grown", 20),
        ({"new": 40}, "grown", 40),
        ({"goings_on": MOST_GOINGS_ON - 1}, "grown", 30),
        # The first reason is told: what a person can change comes before what the rows say.
        ({"same_spec": False, "gone": 3}, "other_spec", 0),
        ({"rows_known": False, "gone": 3}, "unknown_rows", 0),
        ({"gone": 3, "new": 0}, "rows_gone", 3),
    ],
)
def test_everything_else_begins_afresh_and_says_why(
    facts: dict[str, Any], why: str, count: int
) -> None:
    """One thing that was not measured is enough, and none of them refuses the run."""
    choice = choose_by_itself(StartFacts(**{**GROWN, **facts}))
    assert (choice.why, choice.count) == (why, count)
    assert choice.goes_on is (why == "grown")


@pytest.mark.parametrize("why", get_args(Why))
def test_each_choice_is_one_sentence_in_both_languages(why: Why) -> None:
    """It names the run and says which of the two it was."""
    choice = choose_by_itself(StartFacts(**GROWN)).model_copy(update={"why": why, "count": 7})
    said = sentence(choice)
    assert choice.run_id in said
    assert said.startswith("goes on from" if why == "grown" else "begins afresh and not from")
    german = translated(said, GERMAN)
    assert german is not None
    assert german.startswith("setzt auf" if why == "grown" else "beginnt neu und nicht mit")
    assert choice.run_id in german
    if "7" in said:
        assert "7" in german
