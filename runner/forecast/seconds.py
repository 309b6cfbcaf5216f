"""Seconds that a run takes: one optimizer step by arithmetic, and all of them together."""

from __future__ import annotations

import random

from runner.contract.batch import BatchPlan, cut_by_tokens
from runner.forecast.work import Box, Work

_PASS_SECONDS_PER_LAYER = 0.012
"""A card waits for Python at least so long, forward and backward. 0.017 were seen on the host of an
H100, whose processor is slower than a desktop's."""
MID_RANGE_FLOPS = 150e12
"""About an RTX 4090's dense rate: plans are compared at it where the card's is unknown."""
_DRAWS = 48
"""Micro-batches drawn to tell how a plan cuts them."""
_EFFICIENCY = 0.45
"""Of the card's dense rate, what the matrix products of a training step reach. An estimate: what a
box's own runs took corrects it (`lessons.time_factor`)."""
_STARTUP_SECONDS = 25.0
"""Imports, load, export, evaluation: what a run takes beside its steps. An estimate for a small
model: with 1B on an H100, 17.5 s went by until an attempt's first step had ended."""


def run_seconds(work: Work, plan: BatchPlan, box: Box) -> float | None:
    """Say how long a run takes from its start; None where the card's speed is not known."""
    each = step_seconds(work, plan, box)
    return None if each is None else each * work.total_steps + _STARTUP_SECONDS


def step_seconds(work: Work, plan: BatchPlan, box: Box) -> float | None:
    """Say how long one optimizer step takes; None where the card's speed is not known."""
    if box.flops is None:
        return None
    shape = work.shape
    # Frozen weights have no gradient: a backward pass costs one forward, not two.
    forwards = 3 if plan.activation_checkpointing else 2
    per_token = 2 * (shape.layers * shape.block_parameters)
    attention = 2 * shape.layers * shape.attention * _mean_length(work)
    head = 3 * 2 * shape.vocabulary * shape.hidden
    each_token = (forwards * (per_token + attention) + head) / (box.flops * _EFFICIENCY)
    waiting = shape.layers * _PASS_SECONDS_PER_LAYER * forwards / 2
    drawn = _drawn_passes(work, plan)
    one = sum(max(tokens * each_token, waiting) for passes in drawn for tokens in passes)
    return plan.gradient_accumulation_steps * one / len(drawn) * box.learned_time


def _mean_length(work: Work) -> float:
    return sum(work.lengths) / len(work.lengths)


def _drawn_passes(work: Work, plan: BatchPlan) -> list[list[int]]:
    """Draw micro-batches and cut them as training does: the tokens of each pass of each."""
    batch = plan.per_device_batch_size
    if work.packed_to:
        return [[batch * work.packed_to]]
    dice = random.Random(0)  # noqa: S311  (the same plan for the same rows)
    found = []
    for _ in range(_DRAWS):
        lengths = dice.choices(work.lengths, k=batch)
        passes = cut_by_tokens(lengths, plan.tokens_per_pass)
        found.append([len(rows) * max(lengths[row] for row in rows) for rows in passes])
    return found
