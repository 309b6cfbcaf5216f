"""Close attempts that an earlier daemon left open: at the newest step that need not be done again.

It is done in the daemon's first rounds, not at its start: a checkpoint of gigabytes is read whole
before it is trusted, in a thread, and everybody else is served meanwhile.
"""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path

from runner.clock import now
from runner.contract.checkpoints import Sha256, names, verified
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.record import Attempt, RunRecord
from runner.contract.stage_io import TrainResult
from runner.contract.states import State
from runner.daemon.book import Live
from runner.daemon.change_run import change
from runner.daemon.daemon import Daemon
from runner.daemon.stages.adopt import adopt
from runner.daemon.stages.await_answers import awaiting_answers, unless_cancelled
from runner.daemon.stages.end import attempt_ended
from runner.daemon.stages.falls import after_fall, rests_until
from runner.daemon.stages.follow_plans import smaller_plan
from runner.daemon.stages.outcome import joined
from runner.daemon.stages.plans import read_answer
from runner.daemon.stages.resume_point import ResumePoint, resume_point
from runner.daemon.stages.retry import WENT_DOWN
from runner.daemon.stages.worked import worked_seconds
from runner.exit_codes import ExitCode
from runner.files.crash_points import reached


def is_open(record: RunRecord) -> bool:
    """Whether an attempt of a run has no end in its record."""
    return any(attempt.outcome is None for attempt in record.attempts)


def close_attempts(daemon: Daemon, at: float) -> None:
    """Close what was left open, as far as the checkpoints are hashed; the rest in later rounds."""
    for live in list(daemon.book.runs.values()):
        if live.left_open and live.rests_until <= at:
            with daemon.isolating(live, at), awaiting_answers(daemon, live):
                _close(daemon, live)


def _close(daemon: Daemon, live: Live) -> None:
    before = live.record
    newest = before.attempts[-1]
    folder = StageFolder(live.run.attempt(newest.number, newest.token))
    unless_cancelled(live, lambda: adopt(live.run, folder, daemon.hashes.of))
    if unless_cancelled(live, lambda: came_to_its_end(live.run, before, daemon.hashes.of)):
        attempt_ended(daemon, live, ExitCode.OK, asked=False)
    else:
        found = unless_cancelled(live, lambda: resume_point(live.run, daemon.hashes.of))
        # As their names say, where nobody can look and nobody goes on from them.
        found = found or ResumePoint(checkpoint=next(iter(names(live.run.checkpoints)), None))
        closed = closed_record(live.run, before, found)
        change(daemon, live, **{name: getattr(closed, name) for name in _CLOSED})
        reached("attempts closed")
        notes = [note for note in closed.shortfalls if note not in before.shortfalls]
        for note in (f"was {before.state}, goes on", *notes):
            daemon.log.say(f"{closed.run_id}: {note}", level="warning")
        live.rests_after_fall_until = rests_until(closed.falls)
    live.left_open = False


_CLOSED = ("attempts", "shortfalls", "falls", "state", "waiting")


def came_to_its_end(run: RunFolder, record: RunRecord, sha256: Sha256) -> bool:
    """Whether an attempt left open came to its end: only the record of it is missing."""
    if not record.attempts or record.attempts[-1].outcome is not None:
        return False
    folder = StageFolder(run.attempt(len(record.attempts), record.attempts[-1].token))
    result, error = read_answer(folder.result, TrainResult)
    return (
        error is None
        and result is not None
        and result.outcome == "succeeded"
        and result.best_checkpoint is not None
        and verified(run.checkpoints / result.best_checkpoint, sha256)
    )


def closed_record(run: RunFolder, record: RunRecord, found: ResumePoint) -> RunRecord:
    """Give the record of a run whose open attempts are closed; the fall is counted."""
    attempts = tuple(
        attempt if attempt.outcome is not None else _closed(run, attempt, found.step)
        for attempt in record.attempts
    )
    return record.but(
        attempts=attempts,
        shortfalls=joined(record.shortfalls, found.notes),
        falls=None if attempts[-1].got_further else after_fall(record.falls, at=now()),
        state=State.INTERRUPTED,
        waiting=None,
    )


def _closed(run: RunFolder, attempt: Attempt, durable_step: int) -> Attempt:
    folder, began = run.attempt(attempt.number, attempt.token), attempt.started_at
    ended = last_seen(folder, since=began)
    steps = durable_step - (attempt.first_step or 1) + 1
    told = smaller_plan(StageFolder(folder))
    return attempt.model_copy(
        update={
            "outcome": "killed",
            "ended_at": ended,
            "seconds": worked_seconds(folder, began=began, ended=ended, steps=steps),
            "last_step": durable_step,
            "left_fast_path": told is not None and told.left_fast_path,
            "reason": WENT_DOWN,
        }
    )


def last_seen(folder: Path, *, since: datetime) -> datetime:
    """Tell when an attempt last wrote anything: the box may have been off since."""
    written = [since.timestamp()]
    with contextlib.suppress(OSError):
        written += [entry.stat(follow_symlinks=False).st_mtime for entry in os.scandir(folder)]
    return min(datetime.fromtimestamp(max(written), UTC), now(not_before=since))
