"""Mend an export: where its checkpoint is torn, another one is exported, or the run trains on."""

from __future__ import annotations

from typing import Any

from runner.contract.states import Stage, State
from runner.daemon.book import Live
from runner.daemon.change_run import change
from runner.daemon.daemon import Daemon
from runner.daemon.stages import outcome
from runner.daemon.stages.resume_point import count_up_to, export_point


def mend_export(daemon: Daemon, live: Live) -> bool:
    """Where the best checkpoint is torn, export the last one; train on where that is torn too.

    Returns:
        Whether the run trains on.
    """
    record = live.record
    best = str(record.metrics["best_checkpoint"])
    found = export_point(live.run, best, daemon.hashes.of)
    if not found.torn:
        return False
    *earlier, last = record.attempts
    changes: dict[str, Any] = {
        "shortfalls": outcome.joined(record.shortfalls, found.notes),
        "metrics": {**record.metrics, "best_checkpoint": found.checkpoint, "best_eval_loss": None},
    }
    trains_on = found.step < (last.last_step or 0)
    if trains_on:
        again = {"outcome": "damaged", "reason": "its last checkpoint was not as it was written"}
        attempts = (*earlier, last.model_copy(update=again))
        changes["attempts"] = count_up_to(attempts, found.step)
        changes |= {"state": State.INTERRUPTED, "next_stage": Stage.TRAIN}
    for note in found.notes:
        daemon.say(live, note, level="warning")
    change(daemon, live, **changes)
    return trains_on
