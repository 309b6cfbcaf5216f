"""Recover: what a dead daemon left becomes a state that a new one can continue from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from runner.clock import now
from runner.contract.checkpoints import sha256_of
from runner.contract.ended import EndedRun, SortedOut, sort_out, stamp_of, write_ended
from runner.contract.layout import Outputs, RunFolder
from runner.contract.record import RunRecord, read_record, write_record
from runner.contract.salvage import salvage
from runner.contract.states import Stage, State
from runner.daemon.leftovers import sweep_box, sweep_run
from runner.daemon.stages.falls import after_fall
from runner.daemon.start.close_attempts import is_open
from runner.daemon.start.end_orphans import end_orphans
from runner.errors import BOX_WIDE, DamagedError, NewerRecordError, RunnerError
from runner.files.durable import sync_file
from runner.files.sweep import sweep_folder
from runner.notices.leave import leave_missed
from runner.words import visible

_ORPHAN_SECONDS = 30.0  # time for a stage left over from a dead daemon to leave a checkpoint
_ON_THE_CARD = (State.TRAINING, State.EXPORTING, State.EVALUATING)
_OPEN_TRY = (State.EXPORTING, State.EVALUATING)


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
    again: list[RunFolder]
    """Those of them that could not be read: they are looked at again (look_again.py)."""
    unreadable_folders: dict[str, str]
    """Folders directly in outputs/ that cannot be looked into: name → why."""
    highest_sequence: int
    notes: list[str]


def revive(record: RunRecord, *, another_trained: bool) -> RunRecord:
    """Bring a run that was under way into a state from which the loop goes on with it.

    An open attempt is closed by the loop (start/close_attempts.py).
    """
    if record.state is State.PREPARING:
        # Of two that went down together, the one on the card is suspected, not this one.
        falls = record.falls if another_trained else after_fall(record.falls, at=now())
        return _without_open_try(record, Stage.PREPARE).but(state=State.QUEUED, falls=falls)
    if record.state is State.QUEUED or is_open(record):
        return record
    # In training without an open attempt, a small run of a learning rate was at work; one that
    # waits is interrupted already.
    tries_rates = record.next_stage is Stage.RATES and record.state is State.TRAINING
    stage = record.next_stage if tries_rates or record.state in _OPEN_TRY else None
    if stage is not None and record.tries.get(stage.value):
        falls = after_fall(record.falls, at=now())
        record = _without_open_try(record, stage).but(falls=falls)
    return record.but(state=State.INTERRUPTED)


def _without_open_try(record: RunRecord, stage: Stage) -> RunRecord:
    """Count a start that went down with the machine as none: it says nothing about the job."""
    tries = max(0, record.tries.get(stage.value, 1) - 1)
    return record.but(tries={**record.tries, stage.value: tries})


def set_aside(run: RunFolder, alive: Callable[[], None]) -> RunRecord:
    """Keep an unreadable record beside a new one, which says what can be recovered.

    What lies there is hashed in place: only a disk that loses bits brings this about.
    """

    def sha256(path: Path) -> str:
        alive()
        return sha256_of(path)

    aside = run.record.with_name(f"{run.record.name}.damaged-{now():%Y%m%dT%H%M%SZ}")
    aside.unlink(missing_ok=True)
    shutil.copyfile(run.record, aside)  # never a moment without a record: it would be adopted anew
    sync_file(aside)
    record = salvage(run, sha256)
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


@dataclass(kw_only=True)
class _Reading:
    """What is found while the records are read."""

    outputs: Outputs
    under_way: list[tuple[RunFolder, RunRecord]] = field(default_factory=list)
    ended: list[EndedRun] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    damaged_now: list[RunRecord] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    again: list[RunFolder] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def leave(self, run: RunFolder, what: str, *, error: Exception) -> None:
        """Leave a run as it is: its record may be readable again."""
        if isinstance(error, OSError):
            self.again.append(run)
        self.damaged.append(f"{visible(run.job)} ({run.run_id}): {what}")
        self.unreadable.append(run.run_id)
        self.notes.append(self.damaged[-1])


def recover(outputs: Outputs, *, alive: Callable[[], None] = lambda: None) -> Found:
    """End orphans, read records, sweep what is unfinished.

    The record of a run that is known to have ended is not read again. ``alive`` is called time and
    again: reading may take long, and whoever watches over a start must see that it goes on.
    """
    reading = _Reading(outputs=outputs)
    orphans = end_orphans(outputs.root, grace_seconds=_ORPHAN_SECONDS)
    reading.notes += [
        f"{folder}: a stage of an earlier daemon was still running" for folder in orphans
    ]
    alive()
    sweep_box(outputs)
    known = sort_out(outputs)
    for run in known.to_read:
        alive()
        _read(reading, run, alive)
    ended = _all_ended(outputs, known, reading.ended)
    return _found(reading, ended, known.unreadable_folders)


def recover_again(outputs: Outputs, runs: list[RunFolder]) -> Found:
    """Do the same of runs whose records could not be read before."""
    reading = _Reading(outputs=outputs)
    for run in runs:
        _read(reading, run, lambda: None)
    return _found(reading, reading.ended, {})


def _found(reading: _Reading, ended: list[EndedRun], unreadable_folders: dict[str, str]) -> Found:
    live = _take_up_each(reading)
    return Found(
        live=live,
        ended=ended,
        damaged=reading.damaged,
        damaged_now=reading.damaged_now,
        unreadable=reading.unreadable,
        again=reading.again,
        unreadable_folders=unreadable_folders,
        highest_sequence=max(
            [r.sequence for r in ended] + [r.sequence for _, r in live], default=0
        ),
        notes=reading.notes,
    )


def _read(reading: _Reading, run: RunFolder, alive: Callable[[], None]) -> None:
    """Read the record of a run that is not known to have ended."""
    # Before it is read: should it change in between, it is read again.
    stamp = stamp_of(run.record)
    try:
        record = read_record(run.record)
        _require_its_own(run, record)
    except FileNotFoundError:
        sweep_folder(run.root)
        return  # killed before the record was written: the file in queued/ is adopted
    except (NewerRecordError, CopiedRunError, OSError) as error:
        reading.leave(run, f"its record cannot be read: {_said(error)}", error=error)
        return
    except DamagedError:
        record = set_aside(run, alive)
        assert record.error is not None
        reading.damaged.append(f"{run.job} ({run.run_id}): {record.error.message}")
        reading.notes.append(reading.damaged[-1])
        reading.damaged_now.append(record)
        stamp = stamp_of(run.record)
    if record.state.is_final:
        sweep_folder(run.root)  # the rest was swept before it ended
        leave_missed(reading.outputs, record)
        reading.ended.append(EndedRun.of(record, stamp or (0, 0)))
    else:
        reading.under_way.append((run, record))


def _take_up_each(reading: _Reading) -> list[tuple[RunFolder, RunRecord]]:
    live = []
    trained = any(record.state in _ON_THE_CARD for _, record in reading.under_way)
    for run, record in reading.under_way:
        try:
            sweep_run(run)
            revived = revive(record, another_trained=trained)
            if revived != record:
                write_record(run.record, revived)
        except OSError as error:
            if error.errno in BOX_WIDE:  # the start as a whole is tried again
                raise
            reading.leave(run, f"it cannot be taken up: {error}", error=error)
            continue
        if revived != record:
            reading.notes.append(f"{run.run_id}: was {record.state}, goes on")
        live.append((run, revived))
    return live
