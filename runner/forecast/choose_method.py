"""Choose the method where a spec says `method: auto`: 16 bits, or the base in 4."""

from __future__ import annotations

from dataclasses import replace

from runner.contract.method_choice import MOST_TIMES, MethodChoice
from runner.forecast.choose import choose, surely_fits
from runner.forecast.forecast import Forecast, lesson_key
from runner.forecast.lessons import Lesson
from runner.forecast.seconds import MID_RANGE_FLOPS, step_seconds
from runner.forecast.work import FP32, Box, Work

_SHARE_OF_MACHINE = 0.5
"""Of the machine's own memory, for the weights on a processor: rows, gradients and everything else
that runs on the machine need the rest. An estimate."""


def choose_method(
    work: Work, box: Box, *, batch_size: int | None = None, checkpointing: bool | None = None
) -> MethodChoice:
    """Take 16 bits where they surely fit the card and take at most `MOST_TIMES` the time.

    A plan that keeps activations on the host counts as one that does not fit.

    Args:
        work: of the run, by whichever method.
        box: with a card.
        batch_size: the most rows of a pass, as for `choose`.
        checkpointing: the spec's word, likewise.
    """
    limit = box.limit_bytes
    if limit is None:
        return MethodChoice(method="qlora", why="unknown")
    speed = box if box.flops else replace(box, flops=MID_RANGE_FLOPS)
    wide, narrow = replace(work, method="lora"), replace(work, method="qlora")
    in_16, in_4 = (
        choose(one, box, batch_size=batch_size, checkpointing=checkpointing)
        for one in (wide, narrow)
    )
    of_card = {"needed_bytes": in_16.gpu_memory_bytes, "limit_bytes": limit}
    fits = surely_fits(wide, in_16.batch_plan, box) and not in_16.batch_plan.activation_offloading
    if not fits:
        return MethodChoice(method="qlora", why="no_room", **of_card)
    if _ran_out(in_16, box, limit):
        return MethodChoice(method="qlora", why="ran_out", **of_card)
    slow, quick = (
        step_seconds(one, found.batch_plan, speed) for one, found in ((wide, in_16), (narrow, in_4))
    )
    times = slow / quick if slow and quick else 1.0
    if times > MOST_TIMES:
        return MethodChoice(method="qlora", why="slower", times=times, **of_card)
    return MethodChoice(method="lora", why="fits", times=times, **of_card)


def _ran_out(in_16: Forecast, box: Box, limit: int) -> bool:
    """Whether memory ran out on this card at a plan of which no more was forecast."""
    parts = in_16.gpu_memory
    wanted = Lesson(
        key=lesson_key("lora", in_16.batch_plan, shard_base=box.shard_base),
        gpu=box.gpu_name or "",
        forecast_bytes=parts.total,
        steady_bytes=parts.weights + parts.context,
        measured_bytes=limit,
    )
    return any(wanted.is_as_large_as(one) and limit <= one.measured_bytes for one in box.too_large)


def choose_for_processor(work: Work, machine_bytes: int) -> MethodChoice:
    """Take 16 bits where the weights leave room; which is quicker there was not measured.

    Some processors compute in 32 bits, so the weights are counted so.
    """
    needed = FP32 * work.shape.parameters
    of_machine = {"needed_bytes": needed, "limit_bytes": machine_bytes}
    if needed > _SHARE_OF_MACHINE * machine_bytes:
        return MethodChoice(method="qlora", why="short", **of_machine)
    return MethodChoice(method="lora", why="no_card", **of_machine)
