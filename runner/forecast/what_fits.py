"""What fits: by how much a run misses the memory that it may use, and what would fit instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from runner.contract.batch import BatchPlan
from runner.contract.record import ErrorFacts
from runner.errors import Problem
from runner.forecast.choose import ROOM_SHARE, choose, smallest_plan, surely_fits
from runner.forecast.forecast import forecast
from runner.forecast.lengths import Lengths
from runner.forecast.memory import gpu_memory
from runner.forecast.model_shape import ModelShape
from runner.forecast.ranks import Ranks, may_share
from runner.forecast.work import GIB, Box, Work
from runner.spec.spec import JobSpec

CARDS = (8, 12, 16, 24, 32, 48, 80, 96, 141)  # GiB: what is sold
_STEP = 64  # tokens: lengths are suggested in round numbers
_RANKS = (256, 128, 64, 32, 16, 8, 4)


def cap_problem(spec: JobSpec, shape: ModelShape | None) -> Problem | None:
    """Say that a cap on GPU memory is below what the model's weights take; None where it is not."""
    cap_gib = spec.limits.gpu_memory_gib
    if cap_gib is None or shape is None:
        return None
    work = Work.of(spec, shape, Lengths.of([1]), total_steps=1)
    parts = gpu_memory(work, smallest_plan(work), Box())
    if cap_gib * GIB >= parts.weights + parts.context:
        return None
    needed = math.ceil(2 * parts.total / GIB) / 2
    hint = f"give at least {needed:g}, or choose a smaller model"
    if spec.method != "qlora":
        hint = f"give at least {needed:g}, or method: qlora, or a smaller model"
    return Problem(
        field="limits.gpu_memory_gib",
        found=f"{cap_gib:g}",
        message=f"the cap is {cap_gib:g} GiB, but the model's weights alone take "
        f"{parts.weights / GIB:.1f} GiB ({spec.method}) and CUDA {parts.context / GIB:.1f} GiB",
        hint=hint,
    )


def does_not_fit(
    work: Work, plan: BatchPlan, box: Box, *, after_step: int, beside: str = "", cards: int = 1
) -> ErrorFacts:
    """Say by how much a run misses at the smallest plan there is, and what would fit.

    ``beside`` names who else holds memory of the card; what they hold is no part of ``box``.
    ``cards`` are those that the box trains on.
    """
    needed = forecast(work, plan, box).gpu_memory_bytes
    limit = box.limit_bytes if box.gpu_memory_bytes is not None else None  # else it is a CPU
    tokens = f"{work.longest:,}"
    if limit is None:
        message = (
            f"The machine's own memory does not hold this run, not even at the smallest plan "
            f"({plan}; the longest row, {tokens} tokens), after step {after_step}."
        )
    elif needed > limit:
        need, room, missing = gap(needed, limit)
        message = (
            f"This run does not fit, not even at the smallest plan ({plan}; the longest row, "
            f"{tokens} tokens), after step {after_step}: it needs {need:.1f} GiB, "
            f"{room:.1f} GiB may be used, {missing:.1f} GiB are missing."
        )
    else:
        message = (
            f"This run does not fit, not even at the smallest plan ({plan}; the longest row, "
            f"{tokens} tokens), after step {after_step}: {needed / GIB:.1f} GiB were forecast, "
            f"and it took more than the {limit / GIB:.1f} GiB that may be used."
        )
    # Where the forecast was too low, what it says of other runs is too low by as much at least.
    short = max(1.0, limit / needed) if limit is not None else 1.0
    ways = [*_shared(work, box, short, cards), *_ways(work, plan, box, short)]
    ways.append("a smaller model")
    if beside:
        ways.insert(0, f"to end what else uses the GPU ({beside})")
    return ErrorFacts(
        kind="out_of_gpu_memory", message=message, advice=f"Any of these helps: {'; '.join(ways)}."
    )


def _shared(work: Work, box: Box, short: float, cards: int) -> Iterator[str]:
    """Say how many cards of the box would hold the run if they shared its base."""
    for count in range(box.ranks + 1, cards + 1) if may_share(work, box) else ():
        on = Ranks(count=count, shard_base=True).of(box)
        plan = choose(work, on).batch_plan
        if on.limit_bytes is not None and surely_fits(work, plan, on, short=short):
            yield f"resources.gpus: auto ({count} cards that share the base model)"
            return


def _ways(work: Work, smallest: BatchPlan, box: Box, short: float) -> Iterator[str]:
    # Rows one by one: what the smallest plan comes to, however it is written.
    plan = smallest.model_copy(
        update={
            "per_device_batch_size": 1,
            "gradient_accumulation_steps": smallest.effective_batch_size,
            "tokens_per_pass": None,
        }
    )

    def fits(other: Work, on: Box = box) -> bool:
        return on.limit_bytes is not None and surely_fits(other, plan, on, short=short)

    if box.gpu_memory_bytes is None:
        yield "more memory for the machine, or fewer other programs on it"
    else:
        yield from _smaller_runs(work, fits)
        if box.limit_bytes == box.budget_bytes:
            needed = forecast(work, plan, box).gpu_memory_bytes * short / ROOM_SHARE
            if _up(needed, 0.5) * GIB <= box.gpu_memory_bytes:
                yield f"limits.gpu_memory_gib: {_up(needed, 0.5):g}"
                return
    have = (box.gpu_memory_bytes or 0) / GIB
    for gib in CARDS:
        if gib > have + 1 and fits(work, Box(gpu_memory_bytes=gib * GIB)):
            yield f"a card with {gib} GiB"
            return


def _smaller_runs(work: Work, fits: Callable[[Work], bool]) -> Iterator[str]:
    quantised = replace(work, method="qlora")
    if work.method != "qlora" and fits(quantised):
        yield "method: qlora"
    for rank in _RANKS:
        if rank < work.rank and fits(replace(work, rank=rank)):
            yield f"lora.r: {rank}"
            break
    length = _longest_that_fits(work, fits)
    also = ""
    if length is None and work.method != "qlora" and not fits(quantised):
        length, also = _longest_that_fits(quantised, fits), " + method: qlora"
    if length is not None:
        about = "≈ " if work.lengths.rounded else ""
        longer, rows = f"{about}{work.lengths.longer_than(length):,}", f"{work.lengths.rows:,}"
        yield f"training.max_length: {length}{also} (rows longer than that: {longer} of {rows})"


def longest_row(work: Work, box: Box) -> int | None:
    """Give the longest row that this box can train, in tokens; None where every row fits, or none.

    At the smallest plan there is; the other rows of the run make no difference then.
    """
    plan, limit = smallest_plan(work), box.limit_bytes

    def fits(other: Work) -> bool:
        return limit is None or surely_fits(other, plan, box)

    return None if fits(work) else _longest_that_fits(work, fits)


def _longest_that_fits(work: Work, fits: Callable[[Work], bool]) -> int | None:
    low, high = 0, math.ceil(work.longest / _STEP)  # in steps: low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(_cut(work, middle * _STEP)) else (low, middle)
    return low * _STEP or None


def _cut(work: Work, length: int) -> Work:
    packed = None if work.packed_to is None else min(work.packed_to, length)
    return replace(work, lengths=work.lengths.cut(length), packed_to=packed)


def gap(needed: int, limit: int) -> tuple[float, float, float]:
    """Give GiB needed, GiB there and GiB missing, so rounded that the sum is right and never 0."""
    need, room = _up(needed), math.floor(limit / GIB * 10) / 10
    return need, room, need - room


def _up(size: float, step: float = 0.1) -> float:
    return math.ceil(round(size / GIB / step, 6)) * step
