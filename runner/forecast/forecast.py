"""The forecast: what a run will need at one batch plan, in memory, disk and time."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from runner.contract.batch import BatchPlan
from runner.forecast.memory import Parts, disk, gpu_memory, host_memory, kept_base
from runner.forecast.seconds import measuring_seconds, run_seconds
from runner.forecast.work import Box, Work


class Forecast(BaseModel):
    """What a run will need at one batch plan."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    batch_plan: BatchPlan
    gpu_memory: Parts
    gpu_memory_bytes: int
    """The parts together, corrected by what this box has learned."""
    longest: int
    """Tokens of the longest row; the worst batch is the longest rows together."""
    host_memory_bytes: int
    disk_bytes: int
    kept_base_bytes: int = 0
    """Beside that, where there is room: the base in 4 bits, kept for the next run."""
    seconds: float | None = None
    """None: neither the card nor an earlier run told how fast this box is."""
    measuring_seconds: float | None = None
    """Of them, what the measurements of the held-out loss take while it trains."""
    fits: bool | None = None
    """In the memory that the run may use; None: that is not known."""
    ranks: int = 1
    """Cards that it trains on; all memory here is that of one of them."""
    shard_base: bool = False
    """They share the base: none has the room for all of it."""
    one_card_seconds: float | None = None
    """What it would take on one of several cards; None: it trains on one, or cannot there."""


def lesson_key(method: str, plan: BatchPlan, *, shard_base: bool = False) -> str:
    """Name what a measured peak teaches about: other kinds of runs err in other ways."""
    if shard_base:
        return f"{method}, base shared"
    if plan.layers_kept is not None:
        return f"{method}, fast path"
    return f"{method}, checkpointing {'on' if plan.activation_checkpointing else 'off'}"


def memory_bytes(work: Work, plan: BatchPlan, box: Box) -> tuple[int, Parts]:
    """Say what a plan takes of the card, by what this box has learned, and its parts without."""
    parts = gpu_memory(work, plan, box)
    key = lesson_key(work.method, plan, shard_base=box.shard_base)
    factor = box.learned_memory.get(key, 1.0)
    steady = parts.weights + parts.context
    return int(steady + (parts.total - steady) * factor), parts


def forecast(work: Work, plan: BatchPlan, box: Box) -> Forecast:
    """Say what a run needs at one batch plan."""
    total, parts = memory_bytes(work, plan, box)
    limit = box.limit_bytes
    return Forecast(
        batch_plan=plan,
        gpu_memory=parts,
        gpu_memory_bytes=total,
        longest=work.longest,
        host_memory_bytes=host_memory(work, plan, box),
        disk_bytes=disk(work),
        kept_base_bytes=kept_base(work),
        seconds=run_seconds(work, plan, box),
        measuring_seconds=measuring_seconds(work, plan, box),
        fits=None if limit is None else total <= limit,
        ranks=box.ranks,
        shard_base=box.shard_base,
        one_card_seconds=run_seconds(work, plan, replace(box, ranks=1))
        if box.ranks > 1 and not box.shard_base
        else None,
    )
