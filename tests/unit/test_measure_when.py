"""When the held-out loss is measured, and what that may cost."""

from __future__ import annotations

import pytest

from runner.contract.measure_when import DEAR, FORWARD_SHARE, measured_steps

TOKENS = 500  # of a row


def steps(
    total: int, *, train: float = 1e6, held_out: int = 5000, every: int | None = None
) -> list[int]:
    """Choose the steps of some run."""
    found = measured_steps(total, every=every, trained_tokens=train, held_out_tokens=held_out)
    return sorted(found)


def test_the_law_firm_s_run_is_measured_eight_times() -> None:
    """700 contracts twice, 100 held out: 88 steps, evenly spread, the last among them."""
    found = steps(88, train=1400 * TOKENS, held_out=100 * TOKENS)
    assert found == [11, 22, 33, 44, 55, 66, 77, 88]


@pytest.mark.parametrize("total", [1, 2, 7, 8, 9, 10, 11, 25, 150, 4001])
def test_a_run_is_measured_eight_to_ten_times(total: int) -> None:
    """Or at every step of a shorter run; always at its end; never unevenly."""
    for train in (3000 * TOKENS, 40_000 * TOKENS):
        found = steps(total, train=train, held_out=100 * TOKENS)
        assert min(total, 8) <= len(found) <= 10
        assert found[-1] == total
        gaps = [b - a for a, b in zip([0, *found], found, strict=False)]
        assert max(gaps) - min(gaps) <= 1


def test_measuring_never_takes_longer_than_half_of_training() -> None:
    """A few steps over much data, or a held-out file larger than what is learned."""
    for held_out in (100, 1000, 10_000):
        found = steps(500, train=600 * TOKENS, held_out=held_out * TOKENS)
        cost = len(found) * held_out * FORWARD_SHARE / 600
        assert cost <= DEAR or len(found) == 1
        assert found[-1] == 500


def test_the_spec_s_own_wish_counts() -> None:
    """``eval_steps: 4`` is every fourth step, and the end."""
    assert steps(10, every=4) == [4, 8, 10]
    assert steps(3, every=4) == [3]
