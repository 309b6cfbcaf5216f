"""Seconds that a run takes: one optimizer step by arithmetic, and all of them together."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

from runner.contract.batch import BatchPlan, cut_by_tokens
from runner.contract.measure_when import ROWS_AT_ONCE
from runner.forecast.lengths import Lengths
from runner.forecast.model_shape import ModelShape
from runner.forecast.passes import (
    LAYER_SECONDS,
    TILE,
    count_passes,
    pass_seconds,
    sizes_of,
)
from runner.forecast.work import Box, Work

_PASS_SECONDS_PER_LAYER = 0.012
"""A card waits for Python at least so long, forward and backward. 0.017 were seen on the host of an
H100, whose processor is slower than a desktop's."""
MID_RANGE_FLOPS = 150e12
"""About an RTX 4090's dense rate: plans are compared at it where the card's is unknown."""
_DRAWS = 48
"""Micro-batches drawn to tell how a plan cuts them; of larger batches fewer, for each of them tells
more, down to two."""
_ROWS_DRAWN = 512
_EXACT_BATCH = 16
"""Up to so many rows a micro-batch is cut as training cuts it. That takes time by the square of
the rows: choosing a plan for 5,000 rows at 2,048 a step once held the daemon for five minutes."""
_BLOCKS = 24
"""A larger one is cut between so many blocks of rows. Against training's own cut, over even, skewed
and two-fold lengths and 32 to 1,024 rows a pass, tokens were off by 5% at most."""
_EFFICIENCY = 0.45
"""Of the card's dense rate, what the matrix products of a training step reach. An estimate: what a
box's own runs took corrects it (`lessons.time_factor`)."""
_FAST_EFFICIENCY = 0.53
"""The same on the fast path, in a pass so large that what it costs by itself does not count: 8B on
an H100 made 15,384 tokens a second in passes of 9,770, 30 GFLOP each of its 989 TFLOP/s."""
_FP8_TIME = 0.73
"""A token's time in fp8, as a share of that in bf16: 8B made 21,850 tokens a second on an H200 in
large passes, 15,969 in bf16 on another that evening."""
_STARTUP_SECONDS = 25.0
"""Imports, load, export, answers: what a run takes beside its steps and its measurements. An
estimate for a small model: with 1B on an H100, 17.5 s went by until an attempt's first step had
ended."""
_AFTER_TRAINING = 2
"""Measurements that the evaluate stage makes: the held-out loss without and with the adapter."""


def run_seconds(work: Work, plan: BatchPlan, box: Box) -> float | None:
    """Say how long a run takes from its start; None where the card's speed is not known."""
    each = step_seconds(work, plan, box)
    measuring = measuring_seconds(work, plan, box)
    if each is None or measuring is None:
        return None
    after = _AFTER_TRAINING * measuring * box.speedup / max(1, work.measurements)  # on one card
    return each * work.total_steps + measuring + after + _STARTUP_SECONDS


def measuring_seconds(work: Work, plan: BatchPlan, box: Box) -> float | None:
    """Say how long all measurements of the held-out loss take while the run trains.

    For the law firm's run, 100 of whose 800 rows are held out, it is 14 to 20% of its training.
    """
    if box.flops is None:
        return None
    if not work.held_out_rows:
        return 0.0
    shape, tokens = work.shape, work.held_out_tokens
    each_token = _forward(shape, tokens / work.held_out_rows) + 2 * shape.vocabulary * shape.hidden
    if plan.layers_kept is not None:
        one = tokens * each_token / (box.flops * _FAST_EFFICIENCY)
        passes = math.ceil(tokens / max(plan.tokens_per_pass or 1, TILE))
        waiting = passes * shape.layers * LAYER_SECONDS / 3  # forward alone, and no adapter's sums
        return work.measurements * max(one, waiting) * box.learned_fast_time / box.speedup
    passes = math.ceil(work.held_out_rows / max(ROWS_AT_ONCE, plan.per_device_batch_size))
    waiting = passes * shape.layers * _PASS_SECONDS_PER_LAYER / 2  # forward alone
    one = max(tokens * each_token / (box.flops * _EFFICIENCY), waiting)
    return work.measurements * one * box.learned_time / box.speedup


def step_seconds(work: Work, plan: BatchPlan, box: Box) -> float | None:
    """Say how long one optimizer step takes; None where the card's speed is not known."""
    if box.flops is None:
        return None
    if plan.layers_kept is not None:
        one = _fast_step(work, plan, box.flops, box.ranks) * box.learned_fast_time
        return one * box.ranks / box.speedup  # a rank's rows are counted already
    shape = work.shape
    # Frozen weights have no gradient: a backward pass costs one forward, not two.
    forwards = 3 if plan.activation_checkpointing else 2
    head = 3 * 2 * shape.vocabulary * shape.hidden
    each_token = (forwards * _forward(shape, work.lengths.mean) + head) / (box.flops * _EFFICIENCY)
    waiting = shape.layers * _PASS_SECONDS_PER_LAYER * forwards / 2
    if work.packed_to:
        batch = plan.per_device_batch_size
        passes: Sequence[tuple[int, float]] = [(batch * work.packed_to, 1.0)]
    else:
        passes = _drawn_passes(work.lengths, plan.per_device_batch_size, plan.tokens_per_pass)
    one = sum(max(tokens * each_token, waiting) * often for tokens, often in passes)
    return plan.gradient_accumulation_steps * one * box.learned_time / box.speedup


def _fast_step(work: Work, plan: BatchPlan, flops: float, ranks: int) -> float:
    """Say how long a rank's step of the fast path takes: nearly equal passes without padding."""
    shape, sizes = work.shape, sizes_of(work)
    head = 3 * 2 * shape.vocabulary * shape.hidden
    operations = 2 * _forward(shape, work.lengths.mean) + head
    each_token = operations / (flops * _FAST_EFFICIENCY) * (_FP8_TIME if work.fp8 else 1.0)
    rows = plan.per_device_batch_size
    draws = [[work.packed_to] * rows] if work.packed_to else _draw(work.lengths, rows)
    seconds = 0.0
    for drawn in draws:
        mine = sum(drawn) / ranks
        passes = count_passes(math.ceil(mine), plan.tokens_per_pass or 1, work.longest)
        tokens = mine / passes
        one = pass_seconds(
            sizes,
            tokens,
            plan.layers_kept or 0,
            each_token=each_token,
            unpacked=plan.layers_unpacked,
        )
        seconds += passes * one
    return plan.gradient_accumulation_steps * seconds / len(draws)


def _forward(shape: ModelShape, length: float) -> float:
    """Count the operations that take a token of a row of this length through all blocks."""
    return 2 * shape.layers * (shape.block_parameters + shape.attention * length)


@lru_cache(maxsize=256)
def _drawn_passes(lengths: Lengths, batch: int, limit: int | None) -> list[tuple[int, float]]:
    """Draw micro-batches and cut them as training does: tokens of a pass, and how often it comes.

    How often: in one micro-batch, on average.
    """
    draws = _draw(lengths, batch)
    if limit is None:
        counted = Counter(batch * drawn[0] for drawn in draws)
    else:
        counted = Counter(tokens for drawn in draws for tokens in _cut(drawn, limit))
    return [(tokens, count / len(draws)) for tokens, count in counted.items()]


@lru_cache(maxsize=32)
def _draw(lengths: Lengths, batch: int) -> list[list[int]]:
    """Draw rows for micro-batches, each the longest row first: the same for the same rows."""
    dice = random.Random(0)  # noqa: S311  (no secret)
    tokens = [length for length, _ in lengths.steps]
    up_to = list(accumulate(rows for _, rows in lengths.steps))
    draws = min(_DRAWS, max(2, _ROWS_DRAWN // batch)) if batch > _EXACT_BATCH else _DRAWS
    return [
        sorted(dice.choices(tokens, cum_weights=up_to, k=batch), reverse=True) for _ in range(draws)
    ]


def _cut(drawn: Sequence[int], limit: int) -> Sequence[int]:
    """Give the tokens of each pass of one micro-batch."""
    if len(drawn) <= _EXACT_BATCH:
        return [len(rows) * drawn[rows[0]] for rows in cut_by_tokens(drawn, limit)]
    return min(_filled(drawn, limit), _cut_blocks(drawn, limit), key=lambda p: (len(p), sum(p)))


def _filled(drawn: Sequence[int], limit: int) -> list[int]:
    """Fill each pass from the longest row left: near to the best cut where passes are many."""
    found, start = [], 0
    while start < len(drawn):
        rows = min(max(1, limit // drawn[start]), len(drawn) - start)
        found.append(rows * drawn[start])
        start += rows
    return found


def _cut_blocks(drawn: Sequence[int], limit: int) -> list[int]:
    """Cut between blocks of rows as training cuts between rows: near to it where passes are few."""
    ends = _block_ends(len(drawn))
    # For the first so many blocks: the passes needed, their tokens, and the passes themselves.
    best: list[tuple[int, int, list[int]]] = [(0, 0, [])]
    for end in range(1, len(ends)):
        found: tuple[int, int, list[int]] | None = None
        for start in range(end - 1, -1, -1):
            rows, longest = ends[end] - ends[start], drawn[ends[start]]
            passes = [rows * longest]
            if passes[0] > limit:
                if start < end - 1:
                    break  # more rows, and longer ones: never fewer tokens
                each = max(1, limit // longest)
                passes = [longest * min(each, rows - done) for done in range(0, rows, each)]
            count, tokens, before = best[start]
            here = (count + len(passes), tokens + sum(passes))
            if found is None or here < found[:2]:
                found = (*here, [*before, *passes])
        assert found is not None
        best.append(found)
    return best[-1][2]


@lru_cache(maxsize=32)
def _block_ends(rows: int) -> list[int]:
    """Part rows into blocks, the first ones of one row each: cuts lie where rows are long."""
    alone = _BLOCKS // 3
    growth = (rows / alone) ** (1 / (_BLOCKS - alone))
    wanted = [*range(alone + 1), *(round(alone * growth**n) for n in range(1, _BLOCKS - alone))]
    ends = [0, *(b for a, b in pairwise(wanted) if b > a)]
    return [*(end for end in ends if end < rows), rows]
