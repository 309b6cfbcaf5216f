"""The first plan of a run, its forecast, and whether it waits for GPU memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.card.known_card import note_card
from runner.card.memory import GpuMemory
from runner.card.wait_for_memory import why_wait
from runner.contract.batch import BatchPlan
from runner.contract.layout import Outputs, RunFolder, StageFolder
from runner.contract.models import read_config
from runner.contract.record import ErrorFacts, RunRecord
from runner.contract.settings import Settings
from runner.contract.stage_io import PrepareResult, TrainResult, read_message
from runner.daemon.stages.plans import first_plan
from runner.errors import DamagedError, InputError
from runner.forecast.choose import alternatives, choose, surely_fits
from runner.forecast.forecast import Forecast, forecast, lesson_key
from runner.forecast.lengths import read_lengths
from runner.forecast.lessons import (
    Lesson,
    add_lesson,
    context_of,
    memory_factors,
    read_lessons,
    time_factor,
    too_large,
)
from runner.forecast.model_shape import read_shape
from runner.forecast.ranks import ALONE, Ranks
from runner.forecast.seconds import step_seconds
from runner.forecast.what_fits import does_not_fit
from runner.forecast.work import CONTEXT_BYTES, GIB, RANK_BYTES, Box, Work
from runner.spec.spec import JobSpec


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """What the next attempt will need."""

    plan: BatchPlan
    plain_plan: BatchPlan | None = None
    """What to run where that is one of the fast path, and the fast path is not taken."""
    facts: dict[str, Any] = field(default_factory=dict)
    """As the record keeps it; empty where the model's config tells too little."""
    waits: str | None = None
    """Who holds the memory that the attempt needs."""


def look_ahead(
    settings: Settings,
    run: RunFolder,
    record: RunRecord,
    spec: JobSpec,
    gpu: GpuMemory | None,
    ranks: Ranks = ALONE,
    *,
    is_here: bool = True,
) -> Ahead:
    """Choose the first plan, or keep the plan in force, and say what it needs.

    A plan in force was made for one card, or for each of several: on another number of them it is
    kept where it fits, and otherwise chosen anew.

    Args:
        settings: the box's.
        run: its folder, with the prepared rows.
        record: its record.
        spec: as it is trained.
        gpu: the card, the smallest of several.
        ranks: on how many of them it trains.
        is_here: it is this box's.
    """
    work = read_work(settings.models_dir, run, spec, total_steps=record.total_steps or 0)
    if work is None or not settings.look_ahead:
        return Ahead(plan=record.batch_plan or first_plan(spec))
    if is_here:
        note_card(settings.outputs, gpu)
    box = known_box(settings.outputs, spec, gpu, ranks)
    found = None if record.batch_plan is None else forecast(work, record.batch_plan, box)
    if found is None or (found.fits is False and ranks != ranks_of(record)):
        found = first_forecast(spec, work, box)
    waits = waits_for_memory(gpu, box, found)
    if waits is not None and found.batch_plan.layers_unpacked:  # it would like to, and need not
        found = forecast(work, found.batch_plan.model_copy(update={"layers_unpacked": 0}), box)
        waits = waits_for_memory(gpu, box, found)
    facts = as_facts(found, alternatives(work, box), box)
    plain = None
    if found.batch_plan.layers_kept is not None:
        plain = first_forecast(spec, replace(work, fast=False), box).batch_plan
    return Ahead(plan=found.batch_plan, plain_plan=plain, facts=facts, waits=waits)


def ranks_of(record: RunRecord) -> Ranks:
    """Tell on how many cards a run was trained, or was to be, the last time."""
    known = record.forecast
    return Ranks(count=known.get("ranks", 1), shard_base=known.get("shard_base", False))


def waits_for_memory(gpu: GpuMemory | None, box: Box, found: Forecast) -> str | None:
    """Say who holds the memory of a card that a run needs; None: it is free."""
    if gpu is None:
        return None
    limit = box.limit_bytes or found.gpu_memory_bytes
    return why_wait(gpu, min(found.gpu_memory_bytes, limit))


def why_not(
    settings: Settings,
    run: RunFolder,
    record: RunRecord,
    spec: JobSpec,
    gpu: GpuMemory | None,
    *,
    cards: int = 1,
) -> ErrorFacts | str | None:
    """Say why a run did not fit at the smallest plan, and what would fit.

    A sentence instead: another program has taken what it needs, and it only has to wait. None: the
    model's config tells too little. ``cards`` are those that the box trains on.
    """
    work = read_work(settings.models_dir, run, spec, total_steps=record.total_steps or 0)
    plan = record.batch_plan
    if work is None or plan is None:
        return None
    box = known_box(settings.outputs, spec, gpu, ranks_of(record))
    beside = ""
    if gpu is not None and gpu.is_shared:
        if waits := why_wait(gpu, forecast(work, plan, box).gpu_memory_bytes):
            return waits
        box = replace(box, gpu_memory_bytes=gpu.free_bytes)
        beside = gpu.held_by()
    step = (record.attempts[-1].last_step or 0) if record.attempts else 0
    return does_not_fit(work, plan, box, after_step=step, beside=beside, cards=cards)


def first_forecast(spec: JobSpec, work: Work, box: Box) -> Forecast:
    """Choose what a first attempt starts with; on a CPU no card's memory decides it."""
    if box.gpu_memory_bytes is None:
        return forecast(work, first_plan(spec), box)
    switch = spec.training.activation_checkpointing
    return choose(
        work,
        box,
        batch_size=spec.batch_size_limit,
        checkpointing=None if switch == "auto" else switch,
    )


def fits_on(spec: JobSpec, work: Work, box: Box) -> bool | None:
    """Tell whether a run surely fits a card, or each of several; None: the card is not known.

    The base is shared on the fast path alone. A plan that leans on the host fits by itself.
    """
    found = first_forecast(spec, work, box)
    plan = found.batch_plan
    if not found.fits or plan.layers_kept is None:
        return found.fits and not box.shard_base
    return plan.activation_offloading or surely_fits(work, plan, box)


def as_facts(found: Forecast, others: Sequence[Forecast], box: Box) -> dict[str, Any]:
    """Give a forecast and its alternatives as records and scripts read them."""
    return {
        **found.model_dump(mode="json"),
        "gpu": box.gpu_name,
        "limit_bytes": box.limit_bytes,
        "alternatives": [
            one.model_dump(
                mode="json", include={"batch_plan", "gpu_memory_bytes", "seconds", "fits"}
            )
            for one in others
        ],
    }


def read_work(models_dir: Path, run: RunFolder, spec: JobSpec, *, total_steps: int) -> Work | None:
    """Read what is trained from the model's config and the prepared rows' lengths."""
    try:
        shape = read_shape(read_config(models_dir / spec.model, spec.model))
    except (InputError, OSError, ValueError):
        return None
    lengths = read_lengths(run.lengths)
    if shape is None or lengths is None:
        return None
    counted = _counted(run)
    return Work.of(
        spec,
        shape,
        lengths,
        total_steps=total_steps,
        counted_parameters=counted.trainable_parameters,
        held_out_rows=counted.eval_rows if counted.eval_tokens else 0,
        held_out_tokens=counted.eval_tokens,
        fast=counted.fast,
    )


def _counted(run: RunFolder) -> PrepareResult:
    """Give what prepare counted; an older run, or one whose result is damaged, counted nothing."""
    try:
        return read_message(StageFolder(run.prepared).result, PrepareResult)
    except (OSError, DamagedError):
        return PrepareResult()


def known_box(outputs: Outputs, spec: JobSpec, gpu: GpuMemory | None, ranks: Ranks = ALONE) -> Box:
    """Put together what the driver says, what the spec allows and what past runs taught."""
    cap = spec.limits.gpu_memory_gib
    budget = int(cap * GIB) if cap else None
    if gpu is None:
        return ranks.of(Box(budget_bytes=budget))
    lessons = read_lessons(outputs.lessons)
    box = gpu.box(
        budget_bytes=budget,
        context_bytes=_context_of(lessons, gpu, ranks),
        learned_memory=memory_factors(lessons, gpu=gpu.name, ranks=ranks.count),
        too_large=too_large(lessons, gpu=gpu.name, ranks=ranks.count),
        learned_time=time_factor(lessons, gpu=gpu.name, fast=False, ranks=ranks.count),
        learned_fast_time=time_factor(lessons, gpu=gpu.name, fast=True, ranks=ranks.count),
    )
    return ranks.of(box)


def _context_of(lessons: Sequence[Lesson], gpu: GpuMemory, ranks: Ranks) -> int:
    """Give CUDA's own share of a card, without the talk among ranks (`Box.held_bytes`)."""
    together = context_of(lessons, gpu=gpu.name, ranks=ranks.count) if ranks.count > 1 else None
    if together is not None:  # measured once they talk: theirs is in it
        return max(0, together - RANK_BYTES)
    return context_of(lessons, gpu=gpu.name) or CONTEXT_BYTES


def learn(
    settings: Settings,
    run: RunFolder,
    record: RunRecord,
    spec: JobSpec,
    result: TrainResult,
    *,
    gpu: GpuMemory | None,
) -> None:
    """Keep what an attempt took beside what was forecast for the plan that it ended with."""
    work = read_work(settings.models_dir, run, spec, total_steps=record.total_steps or 0)
    measured = result.peak_gpu_memory_bytes
    if work is None or measured is None or gpu is None:
        return
    if (result.metrics.get("path") == "fast") is (result.batch_plan.layers_kept is None):
        return  # a fast run whose passes nobody forecast
    context = result.environment.get("gpu_context_bytes") or CONTEXT_BYTES
    ranks = ranks_of(record)
    talk = RANK_BYTES if ranks.count > 1 else 0
    box = ranks.of(Box(flops=gpu.flops, context_bytes=max(0, context - talk)))
    found = forecast(work, result.batch_plan, box)
    each = step_seconds(work, result.batch_plan, box)
    steps = result.last_step - (result.first_step or 1) + 1
    tokens = float(result.metrics.get("tokens_seen") or 0)
    speed = float(result.metrics.get("tokens_per_second") or 0)
    whole = result.first_step == 1 and tokens > 0 and speed > 0
    add_lesson(
        settings.outputs.lessons,
        Lesson(
            key=lesson_key(work.method, result.batch_plan, shard_base=ranks.shard_base),
            gpu=gpu.name,
            ranks=ranks.count,
            fast=result.batch_plan.layers_kept is not None,
            forecast_bytes=found.gpu_memory_bytes,
            steady_bytes=found.gpu_memory.weights + found.gpu_memory.context,
            measured_bytes=measured,
            context_bytes=context,
            forecast_seconds=each * steps if each and whole else None,
            measured_seconds=tokens / speed if whole else None,
        ),
    )


def learn_too_large(
    settings: Settings, run: RunFolder, record: RunRecord, spec: JobSpec, *, gpu: GpuMemory | None
) -> None:
    """Keep that none of the plans of a run's attempts fit, so that the next run is not begun so.

    Args:
        settings: of the daemon.
        run: its folder.
        record: with the attempts, and the plan at which the last one ended.
        spec: as it was trained.
        gpu: the card; where other programs held some of it, nothing is learned.
    """
    work = read_work(settings.models_dir, run, spec, total_steps=record.total_steps or 0)
    ranks = ranks_of(record)
    limit = known_box(settings.outputs, spec, gpu).limit_bytes
    if work is None or gpu is None or limit is None or gpu.is_shared:
        return
    own = _context_of(read_lessons(settings.outputs.lessons), gpu, ranks)
    box = ranks.of(Box(context_bytes=own))
    tried = [attempt.batch_plan for attempt in record.attempts]
    for plan in dict.fromkeys((*tried, *([record.batch_plan] if record.batch_plan else ()))):
        found = forecast(work, plan, box)
        add_lesson(
            settings.outputs.lessons,
            Lesson(
                key=lesson_key(work.method, plan, shard_base=ranks.shard_base),
                gpu=gpu.name,
                ranks=ranks.count,
                fast=plan.layers_kept is not None,
                forecast_bytes=found.gpu_memory_bytes,
                steady_bytes=found.gpu_memory.weights + found.gpu_memory.context,
                measured_bytes=limit,
                ran_out=True,
            ),
        )
