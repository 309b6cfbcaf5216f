"""Checkpoints of a job: those that lie in its folder, and the adapter once it has succeeded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runner.contract.checkpoints import MANIFEST, listed, read_manifest, step_of
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.record_head import RecordHead
from runner.contract.states import State
from runner.errors import DamagedError
from runner.office.api.events import read_events
from runner.office.api.job_object import model_id


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One state of the training that can be used or gone on from."""

    id: str
    model: str
    step: int
    created: float
    """Seconds since 1970."""
    eval_loss: float | None
    """In nats per held-out token."""
    is_adapter: bool = False
    """Whether it is the finished adapter."""


def read_checkpoints(run: RunFolder, record: RecordHead, base: str) -> Iterator[Checkpoint]:
    """Give them, the newest first; the adapter is that of the best step."""
    prefix, name = f"ftckpt-{run.run_id}", model_id(base, run.job, run.run_id)
    best = step_of(str(record.metrics.get("best_checkpoint")))
    if record.state is State.SUCCEEDED and record.ended_at is not None:
        after = record.metrics.get("eval_loss_after")
        yield Checkpoint(
            id=f"{prefix}-adapter",
            model=name,
            step=best or record.total_steps or 0,
            created=record.ended_at.timestamp(),
            eval_loss=after if isinstance(after, int | float) else None,
            is_adapter=True,
        )
    newest = record.attempts[-1:]  # what it has sealed is adopted once it has ended
    own = (StageFolder(run.attempt(one.number, one.token)).checkpoints for one in newest)
    for folder in listed(run.checkpoints, *own):
        try:
            manifest = read_manifest(folder)
            changed = (folder / MANIFEST).stat().st_mtime
        except (DamagedError, OSError):
            continue  # being written, or going
        yield Checkpoint(
            id=f"{prefix}-{manifest.step}",
            model=f"{name}:ckpt-step-{manifest.step}",
            step=manifest.step,
            created=changed,
            eval_loss=manifest.eval_loss,
        )


def train_losses(run: RunFolder, record: RecordHead) -> dict[int, float]:
    """Give the training loss of each step that counts."""
    found: dict[int, float] = {}
    for event in read_events(run, record):
        loss = event.line.get("loss")
        if event.attempt is not None and isinstance(loss, int | float):
            found.setdefault(event.line["step"], float(loss))
    return found


def checkpoint_object(one: Checkpoint, job_id: str, losses: dict[int, float]) -> dict[str, Any]:
    """Make what a client sees of one."""
    metrics = {"step": one.step, "train_loss": losses.get(one.step), "valid_loss": one.eval_loss}
    return {
        "id": one.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(one.created),
        "fine_tuned_model_checkpoint": one.model,
        "fine_tuning_job_id": job_id,
        "step_number": one.step,
        "metrics": {name: value for name, value in metrics.items() if value is not None},
        "box": {"is_adapter": one.is_adapter},
    }
