"""The batch plan to start with: every way to cut an effective batch, and the choice among them."""

from __future__ import annotations

from dataclasses import replace

from runner.contract.batch import FEW_TOKENS, BatchPlan, largest_divisor_at_most
from runner.forecast.forecast import Forecast, forecast, memory_bytes
from runner.forecast.passes import (
    MOST_TOKENS,
    activation_room,
    batch_tokens,
    choose_place,
    fits,
    keep_unpacked,
    layers_kept,
    long_bytes,
    passes_within,
    rank_tokens,
    sizes_of,
)
from runner.forecast.seconds import MID_RANGE_FLOPS, step_seconds
from runner.forecast.work import Box, Work

ROOM_SHARE = 0.94
"""Of the memory that may be used: a plan whose forecast is above it is not chosen. The forecast was
off by up to 1.9% on one card; other drivers and libraries need their share of the room."""
LARGEST_BATCH = 1024
"""Rows of a pass: more make no card busier, and plans for them would only be compared in vain."""


def smallest_plan(work: Work) -> BatchPlan:
    """Give the plan below which there is none."""
    if work.fast:
        return BatchPlan(
            per_device_batch_size=1,
            gradient_accumulation_steps=work.effective_batch_size,
            tokens_per_pass=min(work.longest, FEW_TOKENS),
            layers_kept=0,
            activation_offloading=True,
        )
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
    if work.fast and box.bf16:
        found = _fast_plan(work, box, batch_size=batch_size, checkpointing=checkpointing)
        if found is not None and found.layers_unpacked:
            told = forecast(work, found, box)
            if told.fits is not False:
                return told
            found = found.model_copy(update={"layers_unpacked": 0})  # by what the box has learned
        if found is not None:
            return forecast(work, found, box)
    return choose_plain(work, box, batch_size=batch_size, checkpointing=checkpointing)


def choose_plain(
    work: Work, box: Box, *, batch_size: int | None = None, checkpointing: bool | None = None
) -> Forecast:
    """Choose among the plans of the plain path, which is taken where the fast one cannot be."""
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


def _fast_plan(
    work: Work, box: Box, *, batch_size: int | None, checkpointing: bool | None
) -> BatchPlan | None:
    """Choose the passes of the fast path; None: the longest row does not fit on it."""
    effective = work.effective_batch_size
    size = largest_divisor_at_most(effective, batch_size or effective)
    sizes, room = sizes_of(work), activation_room(work, box)
    most = rank_tokens(work, size, box.ranks)
    passes = choose_place(
        sizes,
        budget_bytes=room,
        longest=work.longest,
        batch_tokens=most,
        most_kept=0 if checkpointing else None,
    )
    kept = layers_kept(sizes, passes, passes.most_tokens)
    on_host = False
    if room is not None and not fits(sizes, passes):
        if long_bytes(sizes, work.longest, passes.chunk) > room:
            return None
        on_host = True
        passes = passes_within(
            sizes,
            budget_bytes=room,
            longest=work.longest,
            batch_tokens=most,
            most_tokens=MOST_TOKENS,
            most_kept=0 if checkpointing else sizes.layers,
            on_host=True,
        )
        kept = layers_kept(sizes, passes, passes.most_tokens)
    if not box.shard_base:  # a layer that is sent for is not kept
        passes = keep_unpacked(sizes, passes)
    return BatchPlan(
        per_device_batch_size=size,
        gradient_accumulation_steps=effective // size,
        tokens_per_pass=passes.most_tokens,
        layers_kept=kept,
        layers_unpacked=passes.layers_unpacked,
        embedding_on_host=passes.embedding_on_host,
        activation_offloading=on_host,
    )


def surely_fits(work: Work, plan: BatchPlan, box: Box, *, short: float = 1.0) -> bool:
    """Whether a plan may be chosen on a box whose limit is known.

    ``short``: how much more a run took than was forecast.
    """
    assert box.limit_bytes is not None
    needed, parts = memory_bytes(work, plan, box)
    if plan.layers_kept is None:
        return needed * short <= ROOM_SHARE * box.limit_bytes
    room = activation_room(work, box, embedding_on_host=plan.embedding_on_host)
    unpacked = plan.layers_unpacked * sizes_of(work).unpacked
    return room is not None and 0 < parts.activations * short <= room - unpacked


def _limited(work: Work, plan: BatchPlan) -> list[BatchPlan]:
    """Give the same plan with limits of tokens at once, from the longest row up."""
    found = []
    limit = work.longest
    while not work.packed_to and limit < plan.per_device_batch_size * work.longest:
        found.append(plan.model_copy(update={"tokens_per_pass": limit}))
        limit *= 2
    return found


def alternatives(work: Work, box: Box) -> tuple[Forecast, ...]:
    """Forecast the plans that a person may want to compare, from the one that keeps most."""
    plans = _fast_candidates(work) if work.fast and box.bf16 else candidates(work)
    return tuple(forecast(work, plan, box) for plan in plans)


def _fast_candidates(work: Work) -> list[BatchPlan]:
    """List passes of the longest row and more, with all layers kept, half of them and none."""
    effective, layers = work.effective_batch_size, work.shape.layers
    most = max(work.longest, min(MOST_TOKENS, batch_tokens(work, effective)))
    sizes = [most]
    while sizes[-1] > work.longest:
        sizes.append(max(work.longest, sizes[-1] // 2))
    return [
        BatchPlan(
            per_device_batch_size=effective,
            gradient_accumulation_steps=1,
            tokens_per_pass=tokens,
            layers_kept=kept,
        )
        for kept in (layers, layers // 2, 0)
        for tokens in sizes
    ]
