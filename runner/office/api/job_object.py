"""Job object: a run's record and spec become what OpenAI's clients know as a fine-tuning job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from runner.clock import now
from runner.contract.layout import RunFolder
from runner.contract.progress import Progress
from runner.contract.record_head import RecordHead
from runner.contract.states import Stage, State
from runner.office.api.file_ids import file_id_in
from runner.office.api.job_request import LEARNING_RATE, read_kept
from runner.office.refusals import in_one
from runner.spec.spec import JobSpec

ORGANIZATION = "finetuning-box"
_STATUS = {
    State.TRAINING: "running",
    State.EXPORTING: "running",
    State.EVALUATING: "running",
    State.INTERRUPTED: "running",
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.REJECTED: "failed",
    State.CANCELLED: "cancelled",
}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a job's object is made of."""

    job_id: str
    run: RunFolder
    record: RecordHead
    content: bytes
    """The spec's bytes; empty where they cannot be read."""
    spec: JobSpec | None
    """None: they are no spec."""
    progress: Progress | None = None
    is_current: bool = False
    """Whether its adapter is in use."""


def status_of(record: RecordHead) -> str:
    """Give OpenAI's name of a run's state: its files are validated by the prepare stage."""
    if record.state in _STATUS:
        return _STATUS[record.state]
    wanted = (record.model_extra or {}).get("next_stage")
    return "validating_files" if wanted in (None, Stage.PREPARE) else "queued"


def model_id(base: str, job: str, run_id: str) -> str:
    """Name the adapter of a run as OpenAI names fine-tuned models."""
    return f"ft:{base}:{job}:{run_id}"


def job_object(shown: Shown) -> dict[str, Any]:
    """Make the object of a run."""
    record, spec = shown.record, shown.spec
    succeeded = record.state is State.SUCCEEDED
    base = spec.model if spec else "unknown"
    tokens = record.metrics.get("tokens_seen")
    left = shown.progress.eta_seconds if shown.progress else None
    found = common(shown.job_id, spec, shown.content, created=record.created_at)
    return found | {
        "status": status_of(record),
        "error": _error(record),
        "fine_tuned_model": model_id(base, record.job, record.run_id) if succeeded else None,
        "finished_at": _seconds(record.ended_at),
        "estimated_finish": None if left is None else int(now().timestamp() + left),
        "trained_tokens": tokens if isinstance(tokens, int) else None,
        "box": _of_the_box(shown),
    }


def without_record(
    job_id: str,
    status: str,
    spec: JobSpec | None,
    content: bytes,
    *,
    created: datetime,
    error: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Make the object of a job of which no record tells: it was not claimed, or is damaged."""
    return common(job_id, spec, content, created=created) | {
        "status": status,
        "error": error,
        "fine_tuned_model": None,
        "finished_at": None,
        "estimated_finish": None,
        "trained_tokens": None,
        "box": {"job": spec.name if spec else None, "run_id": None, "state": None},
    }


def common(
    job_id: str, spec: JobSpec | None, content: bytes, *, created: datetime
) -> dict[str, Any]:
    """Make what a spec alone says of a job."""
    hyperparameters = _hyperparameters(spec)
    return {
        "id": job_id,
        "object": "fine_tuning.job",
        "created_at": int(created.timestamp()),
        "model": spec.model if spec else "unknown",
        "organization_id": ORGANIZATION,
        "result_files": [],
        "training_file": file_id_in(spec.data[0]) if spec else "unknown",
        "validation_file": file_id_in(spec.eval_data[0]) if spec and spec.eval_data else None,
        "seed": spec.training.seed if spec else 0,
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "integrations": [],
        "metadata": read_kept(content).metadata,
        "suffix": spec.name if spec else None,
    }


def _hyperparameters(spec: JobSpec | None) -> dict[str, Any]:
    """Tell them back; what was left to the box is "auto"."""
    if spec is None:
        return dict.fromkeys(("n_epochs", "batch_size", "learning_rate_multiplier"), "auto")
    training = spec.training
    given = training.model_fields_set
    batch_is_given = given & {"effective_batch_size", "batch_size", "gradient_accumulation"}
    epochs = training.epochs
    whole = int(epochs) if epochs is not None and epochs == int(epochs) else epochs
    return {
        "n_epochs": "auto" if whole is None else whole,
        "batch_size": spec.effective_batch_size if batch_is_given else "auto",
        "learning_rate_multiplier": float(f"{training.learning_rate / LEARNING_RATE:.6g}")
        if "learning_rate" in given
        else "auto",
    }


def _error(record: RecordHead) -> dict[str, Any] | None:
    error = record.error
    if error is None or record.state not in (State.FAILED, State.REJECTED):
        return None
    said = in_one(error.message, error.advice)
    param = "training_file" if error.kind == "bad_data" else None
    return {"code": error.kind, "message": said, "param": param}


def _of_the_box(shown: Shown) -> dict[str, Any]:
    """Tell what OpenAI's object has no place for."""
    record, progress = shown.record, shown.progress
    verdict = record.verdict
    promotion = (record.model_extra or {}).get("promotion")
    waiting = record.waiting
    folder = f"outputs/{record.job}/{record.run_id}"
    return {
        "job": record.job,
        "run_id": record.run_id,
        "state": record.state.value,
        "folder": folder,
        "adapter": f"{folder}/adapter" if record.state is State.SUCCEEDED else None,
        "in_use": shown.is_current,
        "waiting": waiting.reason if waiting else None,
        "verdict": {"outcome": verdict.outcome.value, "reason": verdict.reason}
        if verdict
        else None,
        "promotion": {name: promotion.get(name) for name in ("decision", "reason")}
        if isinstance(promotion, dict)
        else None,
        "total_steps": record.total_steps,
        "step": progress.step if progress else None,
        "loss": progress.loss if progress else None,
    }


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
