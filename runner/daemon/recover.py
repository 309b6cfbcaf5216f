"""Turns what a dead daemon left behind into a state that a living one can go on from."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from runner.contract.checkpoints import newest_verified
from runner.contract.durable import TEMPORARY_PREFIX
from runner.contract.errors import DamagedError
from runner.contract.layout import Outputs, RunFolder
from runner.contract.record import RunRecord, now, read_record, write_record
from runner.contract.states import State
from runner.daemon.process import end_orphan

_ORPHAN_SECONDS = 30.0  # time for a stage left over from a dead daemon to leave a checkpoint


@dataclass(frozen=True, kw_only=True)
class Found:
    """What lies in the outputs folder at the start."""

    live: list[tuple[RunFolder, RunRecord]]
    ended: list[RunRecord]
    damaged: list[str]
    """Run ids whose record cannot be read; they are left as they are."""
    highest_sequence: int
    notes: list[str]


def step_of(checkpoint: str | None) -> int:
    """Give the optimizer step of a checkpoint's name; 0 without one."""
    if checkpoint is None:
        return 0
    return int(checkpoint.rpartition("-")[2])


def close_attempts(record: RunRecord, *, durable_step: int) -> RunRecord:
    """Close attempts that were open when the daemon died, at the newest durable step."""
    attempts = tuple(
        attempt
        if attempt.outcome is not None
        else attempt.model_copy(
            update={
                "outcome": "killed",
                "ended_at": now(),
                "last_step": durable_step,
                "reason": "the daemon or the machine went down",
            }
        )
        for attempt in record.attempts
    )
    return record.but(attempts=attempts)


def revive(run: RunFolder, record: RunRecord) -> RunRecord:
    """Bring a run that was under way into a state from which the loop goes on with it."""
    if record.state is State.PREPARING:
        return record.but(state=State.QUEUED)
    if record.state is State.QUEUED:
        return record
    if any(attempt.outcome is None for attempt in record.attempts):
        record = close_attempts(record, durable_step=step_of(newest_verified(run.root)))
    return record.but(state=State.INTERRUPTED)


def unfinished(outputs: Outputs) -> bool:
    """Whether any run is not finished yet; its spec should then show in the inbox."""
    for run in outputs.runs():
        try:
            if not read_record(run.record).state.is_final:
                return True
        except (OSError, DamagedError):
            continue
    return False


def recover(outputs: Outputs) -> Found:
    """Read all records, kill orphans, close what was open, sweep unfinished files."""
    live, ended, damaged, notes = [], [], [], []
    highest = 0
    for run in outputs.runs():
        try:
            record = read_record(run.record)
        except FileNotFoundError:
            continue  # killed before the record was written: the file in queued/ is adopted
        except (DamagedError, OSError) as error:
            damaged.append(run.run_id)
            notes.append(str(error))
            continue
        highest = max(highest, record.sequence)
        if record.state.is_final:
            ended.append(record)
            continue
        folders = (run.prepared, run.export, run.evaluation, *_subfolders(run))
        found_any = [end_orphan(folder, grace_seconds=_ORPHAN_SECONDS) for folder in folders]
        if any(found_any):
            notes.append(f"{run.run_id}: a stage left over from an earlier daemon was ended")
        revived = revive(run, record)
        if revived != record:
            write_record(run.record, revived)
            notes.append(f"{run.run_id}: was {record.state}, goes on")
        _sweep(run)
        live.append((run, revived))
    return Found(live=live, ended=ended, damaged=damaged, highest_sequence=highest, notes=notes)


def _subfolders(run: RunFolder) -> list[Path]:
    try:
        return [path for path in run.attempts.iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []


def _sweep(run: RunFolder) -> None:
    for entry in os.scandir(run.root):
        if entry.name.startswith(TEMPORARY_PREFIX) and entry.is_file(follow_symlinks=False):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)
