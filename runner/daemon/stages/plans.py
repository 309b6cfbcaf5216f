"""The next stage of a run, its folder, and the plan.json written there."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from runner.contract.batch import BatchPlan, largest_divisor_at_most
from runner.contract.layout import Outputs, RunFolder
from runner.contract.pick_rate import seconds_each
from runner.contract.promotions import current_run
from runner.contract.record import Attempt, ErrorFacts, RunRecord
from runner.contract.settings import Settings
from runner.contract.stage_io import (
    EvaluatePlan,
    ExportPlan,
    HandOverPlan,
    M,
    PreparePlan,
    StageFailure,
    StagePlan,
    TrainPlan,
    read_message,
)
from runner.contract.states import TRAINS, Stage, State
from runner.daemon.promotion.at_end import adapter_in_use
from runner.daemon.stages.retry import leaves_fast_path, spares_host_memory
from runner.errors import DamagedError, UnreadableError
from runner.files.unreadable import reading
from runner.forecast.ranks import ALONE, Ranks
from runner.spec.spec import JobSpec

FIRST_BATCH = 4  # examples per pass to start from; the probe and retries go down from there
_GIB = 1024**3
KNOWN_DATA_RUNS = 20  # earlier runs whose snapshots are offered for hard links

STATE_DURING = {
    Stage.PREPARE: State.PREPARING,
    Stage.RATES: State.TRAINING,
    Stage.TRAIN: State.TRAINING,
    Stage.EXPORT: State.EXPORTING,
    Stage.EVALUATE: State.EVALUATING,
    Stage.HAND_OVER: State.EXPORTING,
}

ON_CARD = (*TRAINS, Stage.EVALUATE, Stage.HAND_OVER)
"""Stages that load a model, and take the card where there is one."""


def stage_folder(run: RunFolder, stage: Stage, record: RunRecord) -> Path:
    """Find the folder that a stage works in; for training, that of the newest attempt."""
    if stage is Stage.TRAIN:
        return run.attempt(len(record.attempts), record.attempts[-1].token)
    if stage is Stage.RATES:
        return _trial_folder(run, record)
    return {
        Stage.PREPARE: run.prepared,
        Stage.EXPORT: run.export,
        Stage.HAND_OVER: run.hand_over,
    }.get(stage, run.evaluation)


def trial_home(run: RunFolder, record: RunRecord) -> RunFolder:
    """Find the folder of the small run that is next or under way."""
    at = record.rates.next_trial if record.rates else None
    return run.rate((at or 0) + 1)


def training_home(run: RunFolder, stage: Stage, record: RunRecord) -> RunFolder:
    """Find the folder whose checkpoints a stage goes on from."""
    return trial_home(run, record) if stage is Stage.RATES else run


def _trial_folder(run: RunFolder, record: RunRecord) -> Path:
    rates = record.rates
    at = rates.next_trial if rates else None
    token = rates.trials[at].token if rates and at is not None else ""
    return trial_home(run, record).attempt(1, token)


def first_plan(spec: JobSpec) -> BatchPlan:
    """Cut the effective batch for a first attempt."""
    effective = spec.effective_batch_size
    size = largest_divisor_at_most(effective, spec.batch_size_limit or FIRST_BATCH)
    return BatchPlan(
        per_device_batch_size=size,
        gradient_accumulation_steps=effective // size,
        activation_checkpointing=spec.training.activation_checkpointing is True,
    )


def make_plan(  # noqa: PLR0913  (all that a stage has to know)
    stage: Stage,
    *,
    settings: Settings,
    run: RunFolder,
    record: RunRecord,
    spec: JobSpec,
    resume_from: str | None = None,
    plain_plan: BatchPlan | None = None,
    ranks: Ranks = ALONE,
    card_bytes: int | None = None,
    no_fp8: str | None = None,
) -> StagePlan:
    """Write down what a stage is asked; for training, the newest attempt is the open one."""
    gib = spec.limits.gpu_memory_gib
    memory = int(gib * _GIB) if gib else None
    common: dict[str, Any] = {
        "models_dir": str(settings.models_dir.resolve()),
        "trust_remote_code": settings.trust_remote_code,
        "device": settings.device,
        "method": spec.named_method,
    }
    kept: dict[str, Any] = {
        "base_cache": str(settings.outputs.base_cache.absolute()),
        # A run under way needs as much again for its checkpoints before it would be paused.
        "leave_bytes": 2 * settings.min_free_bytes,
    }
    if stage is Stage.PREPARE:
        return PreparePlan(
            **common,
            jobs_dir=str(settings.jobs_dir.absolute()),
            known_data=_known_data(settings.outputs, run),
            token_cache=str(settings.outputs.token_cache.absolute()),
            earlier_runs=_earlier_runs(settings.outputs, run),
            gpu_memory_bytes=card_bytes,
            no_fp8=no_fp8,
            replay_from=_replay_from(settings.outputs, record, spec),
            evaluation_tasks=_tasks(settings),
        )
    if stage in TRAINS:
        trained = _trial(record, spec) if stage is Stage.RATES else _attempt(record, spec)
        return TrainPlan(
            **common,
            plain_plan=plain_plan,
            ranks=ranks.count,
            shard_base=ranks.shard_base,
            resume_from=resume_from,
            start_adapter=_start_adapter(settings.outputs, record),
            gpu_memory_bytes=memory,
            # Whoever ran out once is probed: it must not happen again half an hour later.
            probe=None if settings.look_ahead or len(record.attempts) > 1 else False,
            **trained,
            **kept,
        )
    if stage is Stage.EXPORT:
        return ExportPlan(
            **common,
            checkpoint=str(record.metrics["best_checkpoint"]),
            facts={**record.model_dump(mode="json"), "method": spec.method},
        )
    if stage is Stage.HAND_OVER:
        return HandOverPlan(
            **common,
            merged=spec.export.merged,
            gguf=tuple(spec.export.gguf or ()),
            adapter_gguf=spec.export.adapter_gguf,
            gpu_memory_bytes=memory,
            facts={**record.model_dump(mode="json"), "method": spec.method},
            **kept,
        )
    return EvaluatePlan(
        **common,
        gpu_memory_bytes=memory,
        expected_eval_loss=record.metrics.get("best_eval_loss"),
        current_adapter=adapter_in_use(settings.outputs, record, spec),
        noise_folder=str(settings.outputs.noise.absolute()),
        evaluation_tasks=_tasks(settings),
        base_shared_by=_shared_by(record),
        **kept,
    )


def _tasks(settings: Settings) -> str:
    folder = settings.evaluation_tasks
    return str(Path(folder).absolute()) if folder else ""


def _shared_by(record: RunRecord) -> int:
    """Count the cards that shared the base, of the attempt that the adapter comes from."""
    newest = record.attempts[-1] if record.attempts else None
    return newest.ranks if newest is not None and newest.shard_base else 1


def _attempt(record: RunRecord, spec: JobSpec) -> dict[str, Any]:
    """Say what the newest attempt trains."""
    attempt = record.attempts[-1]
    return {
        "number": attempt.number,
        "batch_plan": attempt.batch_plan,
        "total_steps": record.total_steps or 0,
        "learning_rate": record.rates.chosen if record.rates else None,
        "seconds_left": _seconds_left(record, spec),
        "spare_host_memory": spares_host_memory(record.attempts),
        # A base that is shared has no plain path.
        "fast": False if _is_plain(record) and not attempt.shard_base else None,
    }


def _trial(record: RunRecord, spec: JobSpec) -> dict[str, Any]:
    """Say what the next small run of a learning rate trains."""
    rates = record.rates
    assert rates is not None
    at = rates.next_trial
    assert at is not None
    each = seconds_each(spec.hours, len(rates.trials))
    trial = rates.trials[at]
    return {
        "number": at + 1,
        "batch_plan": record.batch_plan,
        "total_steps": rates.steps,
        "learning_rate": trial.learning_rate,
        "is_trial": True,
        "seconds_left": None if each is None or rates.is_timed else max(0.0, each - trial.seconds),
        "spare_host_memory": record.tries.get(Stage.RATES.value, 1) > 1,
        "fast": False if _is_plain(record) else None,
    }


def _is_plain(record: RunRecord) -> bool:
    """Whether an attempt or a small run of a rate showed that the fast path had better be left."""
    tried = record.rates is not None and record.rates.left_fast_path
    return tried or leaves_fast_path(record.attempts)


def _replay_from(outputs: Outputs, record: RunRecord, spec: JobSpec) -> str | None:
    run_id = record.started_from if spec.replay is not None else None
    if spec.leaves_start:  # prepare decides, by the rows
        run_id = current_run(outputs, record.job)
    return None if run_id is None else str(outputs.run(record.job, run_id).root.resolve())


def _start_adapter(outputs: Outputs, record: RunRecord) -> str | None:
    if record.started_from is None:
        return None
    return str(outputs.run(record.job, record.started_from).adapter.resolve())


def _seconds_left(record: RunRecord, spec: JobSpec) -> float | None:
    if spec.hours is None:
        return None
    spent = sum(_worked_seconds(attempt) for attempt in record.attempts)
    spent += record.rates.seconds if record.rates else 0.0
    return max(0.0, spec.hours * 3600 - spent)


def _worked_seconds(attempt: Attempt) -> float:
    if attempt.seconds is not None:
        return attempt.seconds
    if attempt.ended_at is None:
        return 0.0
    return max(0.0, (attempt.ended_at - attempt.started_at).total_seconds())


_EARLIER_RUNS = 5  # the newest of them that got as far as its rows is compared with


def _known_data(outputs: Outputs, run: RunFolder) -> tuple[str, ...]:
    earlier = [names for names in outputs.run_names() if names[1] != run.run_id]
    found = (outputs.run(*names).data for names in earlier[-KNOWN_DATA_RUNS:])
    return tuple(str(data.resolve()) for data in found if _is_folder(data))


def _earlier_runs(outputs: Outputs, run: RunFolder) -> tuple[str, ...]:
    earlier = [one for one in outputs.runs_of(run.job) if one.run_id < run.run_id]
    return tuple(str(one.prepared.resolve()) for one in earlier[-_EARLIER_RUNS:])


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:  # somebody else's run folder says nothing about this run
        return False


def read_answer(path: Path, kind: type[M]) -> tuple[M | None, ErrorFacts | None]:
    """Read a stage's result as far as there is one: the whole of it, or only its error.

    Raises:
        UnreadableError: it cannot be read now: the stage's work is not to be done again for that.
    """
    try:
        with reading(path):
            result = read_message(path, kind)
        return result, getattr(result, "error", None)
    except UnreadableError:
        raise
    except (OSError, DamagedError):
        pass
    try:
        with reading(path):
            return None, read_message(path, StageFailure).error
    except UnreadableError:
        raise
    except (OSError, DamagedError):
        return None, None
