"""The batch plan to start with: every way to cut an effective batch, and the choice among them."""

from __future__ import annotations

from dataclasses import replace

from runner.contract.batch import BatchPlan, largest_divisor_at_most
from runner.forecast.forecast import Forecast, forecast, memory_bytes
from runner.forecast.seconds import MID_RANGE_FLOPS, step_seconds
from runner.forecast.work import Box, Work

ROOM_SHARE = 0.94
"""Of the memory that may be used: a plan whose forecast is above it is not chosen. The forecast was
off by up to 1.9% on one card; other drivers and libraries need their share of the room."""
LARGEST_BATCH = 1024
"""Rows of a pass: more make no card busier, and plans for them would only be compared in vain."""


def smallest_plan(work: Work) -> BatchPlan:
    """Give the plan below which there is none."""
    return BatchPlan(
        per_device_batch_size=1,
        gradient_accumulation_steps=work.effective_batch_size,
        activation_checkpointing=True,
        activation_offloading=True,
    )


def candidates(
    work: Work, *, batch_size: int | None = None, checkpointing: bool | None = None
) -> list[BatchPlan]:
    """List every plan that cuts the effective batch, the largest first.

    Args:
        work: what is trained.
        batch_size: the most examples per pass that the spec allows; None: any.
        checkpointing: what the spec says of it; None: either.
    """
    effective = work.effective_batch_size
    limit = min(effective, batch_size or effective, LARGEST_BATCH)
    sizes: list[int] = []
    while limit >= 1:
        sizes.append(largest_divisor_at_most(effective, limit))
        limit = sizes[-1] // 2
    switches = (False, True) if checkpointing is None else (checkpointing,)
    plans = [
        BatchPlan(
            per_device_batch_size=size,
            gradient_accumulation_steps=effective // size,
            activation_checkpointing=on,
        )
        for on in switches
        for size in sizes
    ]
    last = plans[-1]
    if checkpointing is not False:
        plans.append(last.model_copy(update={"activation_offloading": True}))
    return plans


def choose(
    work: Work, box: Box, *, batch_size: int | None = None, checkpointing: bool | None = None
) -> Forecast:
    """Choose the plan to start with: the quickest of those that surely fit, else the smallest."""
    plain = candidates(work, batch_size=batch_size, checkpointing=checkpointing)
    limit = box.limit_bytes
    if limit is None:
        return forecast(work, plain[0], box)
    plans = [plan for one in plain for plan in (one, *_limited(work, one))]
    known = [(memory_bytes(work, plan, box)[0], plan) for plan in plans]
    fitting = [one for one in known if one[0] <= ROOM_SHARE * limit]
    if not fitting:
        return forecast(work, min(known, key=lambda one: one[0])[1], box)
    speed = box if box.flops else replace(box, flops=MID_RANGE_FLOPS)
    chosen = min(fitting, key=lambda one: (step_seconds(work, one[1], speed) or 0.0, one[0]))
    return forecast(work, chosen[1], box)


def _limited(work: Work, plan: BatchPlan) -> list[BatchPlan]:
    """Give the same plan with limits of tokens at once, from the longest row up."""
    found = []
    limit = work.longest
    while not work.packed_to and limit < plan.per_device_batch_size * work.longest:
        found.append(plan.model_copy(update={"tokens_per_pass": limit}))
        limit *= 2
    return found


def alternatives(work: Work, box: Box) -> tuple[Forecast, ...]:
    """Forecast the plans that a person may want to compare, without and with checkpointing."""
    return tuple(forecast(work, plan, box) for plan in candidates(work))
