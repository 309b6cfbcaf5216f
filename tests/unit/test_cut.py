"""How rows of different lengths share a pass: no row is lost, none pads the others for nothing."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from runner.contract.batch import BatchPlan, cut_by_tokens, describe_change, smaller, worst_pass


def plan(batch: int, steps: int, limit: int | None, *, checkpointing: bool = False) -> BatchPlan:
    """Write a plan."""
    return BatchPlan(
        per_device_batch_size=batch,
        gradient_accumulation_steps=steps,
        tokens_per_pass=limit,
        activation_checkpointing=checkpointing,
    )


@pytest.mark.parametrize(
    ("lengths", "limit", "passes"),
    [
        ([5, 3, 4], None, [[0, 1, 2]]),
        ([5, 3, 4], 100, [[0, 2, 1]]),
        ([100, 10, 11, 12], 100, [[0], [3, 2, 1]]),
        ([10, 10, 10, 10], 20, [[0, 1], [2, 3]]),
        ([100, 10, 11, 12], 200, [[0], [3, 2, 1]]),  # not the longest and one more, padded to it
        ([9, 9, 5, 5, 5], 27, [[0, 1], [2, 3, 4]]),
        ([300, 10], 100, [[0], [1]]),  # longer than the limit: alone
        ([7], 1, [[0]]),
    ],
)
def test_passes(lengths: list[int], limit: int | None, passes: list[list[int]]) -> None:
    """Rows of like length share a pass, the longest first; a row over the limit goes alone."""
    assert cut_by_tokens(lengths, limit) == passes


def test_every_row_is_in_one_pass_that_keeps_the_limit() -> None:
    """Whatever the lengths: each row once, and no pass of two rows or more is over the limit."""
    dice = random.Random(1)
    for _ in range(300):
        lengths = [dice.choice([1, 5, 40, 400, 8000]) for _ in range(dice.randint(1, 20))]
        limit = dice.choice([1, 64, 500, 9000])
        passes = cut_by_tokens(lengths, limit)
        assert sorted(row for rows in passes for row in rows) == list(range(len(lengths)))
        for rows in passes:
            assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= limit


def test_no_pass_of_a_run_is_larger_than_the_one_that_is_probed() -> None:
    """However rows come together in a micro-batch, `worst_pass` has at least as many tokens."""
    dice = random.Random(2)
    for _ in range(200):
        lengths = [dice.choice([3, 50, 51, 300, 2000]) for _ in range(dice.randint(1, 30))]
        one = plan(dice.choice([1, 2, 5, 16]), 1, dice.choice([None, 100, 2000, 5000]))
        worst = worst_pass(lengths, one)
        most = len(worst) * lengths[worst[0]]
        for _ in range(20):
            size = min(one.per_device_batch_size, len(lengths))
            batch = dice.sample(lengths, size)
            for rows in cut_by_tokens(batch, one.tokens_per_pass):
                assert len(rows) * max(batch[row] for row in rows) <= most


def test_a_limit_that_does_not_fit_is_halved_down_to_the_longest_row() -> None:
    """Where a limit binds, it is halved and the batch stays; then come the last savings."""
    steps = []
    one: BatchPlan | None = plan(16, 1, 32_768)
    while one is not None:
        steps.append(str(one))
        one = smaller(one, lengths=[9000])
    assert steps == [
        "16 × 1, at most 32,768 tokens at once",
        "16 × 1, at most 16,384 tokens at once",
        "16 × 1, at most 9,000 tokens at once",
        "16 × 1, at most 9,000 tokens at once, activation checkpointing",
        "16 × 1, at most 9,000 tokens at once, activation checkpointing and offloading",
    ]


def brute_force(lengths: list[int], limit: int) -> tuple[int, int]:
    """Try every cut of the rows in the order of their lengths: passes, then tokens."""
    rows = sorted(lengths, reverse=True)
    found = []
    for cuts in range(2 ** (len(rows) - 1)):
        edges = [0, *(i + 1 for i in range(len(rows) - 1) if cuts >> i & 1), len(rows)]
        parts = [rows[a:b] for a, b in pairwise(edges)]
        if all(len(part) == 1 or len(part) * part[0] <= limit for part in parts):
            found.append((len(parts), sum(len(part) * part[0] for part in parts)))
    return min(found)


def test_no_cut_has_fewer_passes_or_as_few_and_less_padding() -> None:
    """Passes cost time by themselves and padding costs the card's: the fewest, then the least."""
    dice = random.Random(3)
    for _ in range(200):
        lengths = [dice.choice([2, 30, 31, 500, 4000]) for _ in range(dice.randint(1, 9))]
        limit = dice.choice([1, 100, 1500, 9000])
        passes = cut_by_tokens(lengths, limit)
        tokens = sum(len(rows) * max(lengths[row] for row in rows) for rows in passes)
        assert (len(passes), tokens) == brute_force(lengths, limit)


@pytest.mark.parametrize(
    ("lengths", "then"),
    [
        ([500] * 100 + [8000], "16 × 1, at most 64,000 tokens at once"),
        ([500] * 100 + [900], "8 × 2"),  # a typical pass would be cut as well
        ([8000] * 60 + [500] * 40, "8 × 2"),
        ([], "8 × 2"),
    ],
)
def test_few_long_rows_cost_the_others_nothing(lengths: list[int], then: str) -> None:
    """Where few rows are too long, only their passes are cut; else the batch is halved."""
    less = smaller(plan(16, 1, None), lengths=lengths)
    assert str(less) == then
    assert less is not None
    told = describe_change(plan(16, 1, None), less)
    assert told.endswith(", same effective batch 16")
    assert then in told


def test_a_smaller_limit_is_told_in_one_line() -> None:
    """The answer, status, log and record say what was halved, and that the batch is the same."""
    told = describe_change(plan(16, 1, 32_768), plan(16, 1, 16_384))
    assert told == "halved: 32,768 → 16,384 tokens at once, same effective batch 16"
    told = describe_change(plan(16, 1, 16_384), plan(16, 1, 9000))
    assert told == "made smaller: 16,384 → 9,000 tokens at once, same effective batch 16"
    told = describe_change(plan(16, 1, 16_384), plan(16, 1, 9000, checkpointing=True))
    assert told == (
        "made smaller: 16,384 → 9,000 tokens at once (activation checkpointing on), "
        "same effective batch 16"
    )
    told = describe_change(plan(16, 1, None), plan(16, 1, 9000, checkpointing=True))
    assert told == (
        "halved for the longest rows: 16 × 1, at most 9,000 tokens at once "
        "(activation checkpointing on), same effective batch 16"
    )
    told = describe_change(plan(16, 1, 9000), plan(16, 1, 9000, checkpointing=True))
    assert told == ("activation checkpointing switched on at 16 × 1, same effective batch 16")
