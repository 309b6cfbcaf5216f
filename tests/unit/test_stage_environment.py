"""A stage's environment: one card, whatever the daemon sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.contract.stage_environment import environment


@pytest.mark.parametrize(
    ("inherited", "card", "wanted"),
    [
        (None, None, "0"),  # two cards and nothing set: Trainer would put the model on both
        ("1", None, "1"),
        ("GPU-a,GPU-b", None, "GPU-a"),
        (" 1 , 0", None, "1"),
        ("", None, ""),  # none is to be used
        ("-1", None, "-1"),
        (None, "GPU-b", "GPU-b"),
        ("0", "GPU-a,GPU-b", "GPU-a,GPU-b"),  # of a job on two: each of its ranks takes one
    ],
)
def test_a_stage_sees_the_cards_that_it_is_given_or_the_first(
    inherited: str | None, card: str | None, wanted: str
) -> None:
    """Not all that the daemon sees."""
    given = {} if inherited is None else {"CUDA_VISIBLE_DEVICES": inherited}
    assert environment(given, home=Path("/h"), card=card)["CUDA_VISIBLE_DEVICES"] == wanted
