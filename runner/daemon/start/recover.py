"""Recover: what a dead daemon left becomes a state that a new one can continue from."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from runner.clock import now
from runner.contract.checkpoints import Sha256, sha256_of, verified
from runner.contract.ended import EndedRun, SortedOut, sort_out, stamp_of, write_ended
from runner.contract.layout import Outputs, RunFolder, StageFolder
from runner.contract.record import Attempt, RunRecord, read_record, write_record
from runner.contract.salvage import salvage
from runner.contract.stage_io import TrainResult
from runner.contract.states import Stage, State
from runner.daemon.leftovers import sweep_box, sweep_run
from runner.daemon.stages.falls import after_fall
from runner.daemon.stages.outcome import joined
from runner.daemon.stages.plans import read_answer
from runner.daemon.stages.resume_point import resume_point
from runner.daemon.stages.retry import WENT_DOWN
from runner.daemon.stages.worked import worked_seconds
from runner.daemon.start.end_orphans import end_orphans
from runner.errors import BOX_WIDE, DamagedError, NewerRecordError, RunnerError
from runner.files.crash_points import reached
from runner.files.durable import sync_file
from runner.files.sweep import sweep_folder
from runner.words import visible

_ORPHAN_SECONDS = 30.0  # time for a stage left over from a dead daemon to leave a checkpoint
_ON_THE_CARD = (State.TRAINING, State.EXPORTING, State.EVALUATING)
_OPEN_TRY = {State.EXPORTING: Stage.EXPORT, State.EVALUATING: Stage.EVALUATE}


class CopiedRunError(RunnerError):
    """A run folder that was copied: two of one run must not both be worked on."""

    kind = "copied_run"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What lies in the outputs folder at the start."""

    live: list[tuple[RunFolder, RunRecord]]
    ended: list[EndedRun]
    """In the order in which they ended."""
    damaged: list[str]
    """What a person must know about runs whose record could not be read."""
    damaged_now: list[RunRecord]
    """Those of them that were ended by it."""
    unreadable: list[str]
    """Run ids of those that are left as they are: a record may be readable again."""
    unreadable_folders: dict[str, str]
    """Folders directly in outputs/ that cannot be looked into: name → why."""
    highest_sequence: int
    notes: list[str]


def last_seen(folder: Path, *, since: datetime) -> datetime:
    """Tell when an attempt last wrote anything: the box may have been off since."""
    written = [since.timestamp()]
    with contextlib.suppress(OSError):
        written += [entry.stat(follow_symlinks=False).st_mtime for entry in os.scandir(folder)]
    return min(datetime.fromtimestamp(max(written), UTC), now(not_before=since))


def close_attempts(run: RunFolder, record: RunRecord, *, durable_step: int) -> RunRecord:
    """Close attempts that were open when the daemon died, at the newest durable step."""
    attempts = tuple(
        attempt if attempt.outcome is not None else _closed(run, attempt, durable_step)
        for attempt in record.attempts
    )
    return record.but(attempts=attempts)


def _closed(run: RunFolder, attempt: Attempt, durable_step: int) -> Attempt:
    folder, began = run.attempt(attempt.number), attempt.started_at
    ended = last_seen(folder, since=began)
    steps = durable_step - (attempt.first_step or 1) + 1
    return attempt.model_copy(
        update={
            "outcome": "killed",
            "ended_at": ended,
            "seconds": worked_seconds(folder, began=began, ended=ended, steps=steps),
            "last_step": durable_step,
            "reason": WENT_DOWN,
        }
    )


def finished(run: RunFolder, record: RunRecord, sha256: Sha256 = sha256_of) -> bool:
    """Whether an attempt left open came to its end: only the record of it is missing."""
    if not record.attempts or record.attempts[-1].outcome is not None:
        return False
    result, error = read_answer(StageFolder(run.attempt(len(record.attempts))).result, TrainResult)
    return (
        error is None
        and result is not None
        and result.outcome == "succeeded"
        and result.best_checkpoint is not None
        and verified(run.checkpoints / result.best_checkpoint, sha256)
    )


def revive(run: RunFolder, record: RunRecord, *, another_trained: bool) -> RunRecord:
    """Bring a run that was under way into a state from which the loop goes on with it."""
    if record.state is State.PREPARING:
        # Of two that went down together, the one on the card is suspected, not this one.
        falls = record.falls if another_trained else after_fall(record.falls, at=now())
        return _without_open_try(record, Stage.PREPARE).but(state=State.QUEUED, falls=falls)
    if record.state is State.QUEUED or finished(run, record):
        return record
    if any(attempt.outcome is None for attempt in record.attempts):
        found = resume_point(run)
        record = close_attempts(run, record, durable_step=found.step)
        got_further = record.attempts[-1].got_further
        record = record.but(
            shortfalls=joined(record.shortfalls, found.notes),
            falls=None if got_further else after_fall(record.falls, at=now()),
        )
    elif (stage := _OPEN_TRY.get(record.state)) and record.tries.get(stage.value):
        falls = after_fall(record.falls, at=now())
        record = _without_open_try(record, stage).but(falls=falls)
    return record.but(state=State.INTERRUPTED)


def _without_open_try(record: RunRecord, stage: Stage) -> RunRecord:
    """Count a start that went down with the machine as none: it says nothing about the job."""
    tries = max(0, record.tries.get(stage.value, 1) - 1)
    return record.but(tries={**record.tries, stage.value: tries})


def set_aside(run: RunFolder) -> RunRecord:
    """Keep an unreadable record beside a new one, which says what can be recovered."""
    aside = run.record.with_name(f"{run.record.name}.damaged-{now():%Y%m%dT%H%M%SZ}")
    aside.unlink(missing_ok=True)
    shutil.copyfile(run.record, aside)  # never a moment without a record: it would be adopted anew
    sync_file(aside)
    record = salvage(run)
    write_record(run.record, record)
    return record


def unfinished(outputs: Outputs) -> list[str]:
    """List the ids of the runs that are not finished: their specs should show in the inbox."""
    found = []
    for run in sort_out(outputs).to_read:
        try:
            if not read_record(run.record).state.is_final:
                found.append(run.run_id)
        except (OSError, DamagedError):
            continue
    return found


def _require_its_own(run: RunFolder, record: RunRecord) -> None:
    """Refuse a run folder that is a copy of another.

    Raises:
        CopiedRunError: its record tells of another folder.
    """
    if (record.job, record.run_id) != (run.job, run.run_id):
        raise CopiedRunError(
            f"it is a copy of {visible(record.job)}/{visible(record.run_id)}; it is left alone.",
            advice="Delete the copy, or move it out of the folder outputs.",
        )


def _all_ended(outputs: Outputs, known: SortedOut, more: list[EndedRun]) -> list[EndedRun]:
    """List the ended runs in their order; the index is renewed where it was not exact."""
    # First those that were noted when they ended, in that order: it knows no clock.
    more.sort(key=lambda one: (one.ended_at, one.sequence))
    ended = [*known.ended.values(), *more]
    if more or not known.index_is_exact:
        write_ended(outputs, ended)
    return ended


def _said(error: Exception) -> str:
    """Give what is wrong and, where the error knows it, what to do."""
    advice = error.advice if isinstance(error, RunnerError) else None
    return f"{error} {advice}" if advice else str(error)


def recover(outputs: Outputs, *, alive: Callable[[], None] = lambda: None) -> Found:
    """End orphans, read records, close what was open, sweep what is unfinished.

    The record of a run that is known to have ended is not read again. ``alive`` is called time and
    again: reading may take long, and whoever watches over a start must see that it goes on.
    """
    under_way: list[tuple[RunFolder, RunRecord]] = []
    more: list[EndedRun] = []
    damaged, damaged_now, unreadable, notes = [], [], [], []
    orphans = end_orphans(outputs.root, grace_seconds=_ORPHAN_SECONDS)
    notes += [f"{folder}: a stage of an earlier daemon was still running" for folder in orphans]
    sweep_box(outputs)
    known = sort_out(outputs)
    for run in known.to_read:
        alive()
        # Before it is read: should it change in between, it is read again.
        stamp = stamp_of(run.record)
        try:
            record = read_record(run.record)
            _require_its_own(run, record)
        except FileNotFoundError:
            sweep_folder(run.root)
            continue  # killed before the record was written: the file in queued/ is adopted
        except (NewerRecordError, CopiedRunError, OSError) as error:
            damaged.append(
                f"The record of {visible(run.job)} ({run.run_id}) cannot be read: {_said(error)}"
            )
            unreadable.append(run.run_id)
            notes.append(damaged[-1])
            continue
        except DamagedError:
            record = set_aside(run)
            assert record.error is not None
            damaged.append(f"{run.job} ({run.run_id}): {record.error.message}")
            notes.append(damaged[-1])
            damaged_now.append(record)
            stamp = stamp_of(run.record)
        if record.state.is_final:
            sweep_folder(run.root)  # the rest was swept before it ended
            more.append(EndedRun.of(record, stamp or (0, 0)))
        else:
            under_way.append((run, record))
    ended = _all_ended(outputs, known, more)
    live = []
    trained = any(record.state in _ON_THE_CARD for _, record in under_way)
    for run, record in under_way:
        try:
            sweep_run(run)
            revived = revive(run, record, another_trained=trained)
            if revived != record:
                write_record(run.record, revived)
                reached("attempts closed")
        except OSError as error:
            if error.errno in BOX_WIDE:  # the start as a whole is tried again
                raise
            damaged.append(f"{run.job} ({run.run_id}) cannot be taken up: {error}")
            unreadable.append(run.run_id)
            notes.append(damaged[-1])
            continue
        if revived != record:
            notes.append(f"{run.run_id}: was {record.state}, goes on")
            notes += [
                f"{run.run_id}: {s}" for s in revived.shortfalls if s not in record.shortfalls
            ]
        live.append((run, revived))
    return Found(
        live=live,
        ended=ended,
        damaged=damaged,
        damaged_now=damaged_now,
        unreadable=unreadable,
        unreadable_folders=known.unreadable_folders,
        highest_sequence=max(
            [r.sequence for r in ended] + [r.sequence for _, r in live], default=0
        ),
        notes=notes,
    )
