"""Erase: a run's rows go, and all that was made from them; its record says when and for whom.

What stays is named here and everything else in the run's folder goes: a file that a later version
adds is erased until somebody decides otherwise. Files are deleted, not overwritten: what a disk, a
backup or a snapshot of the file system keeps of deleted files is not in our hands.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from runner.clock import now
from runner.contract.layout import HAND_OVER_PAGE, Outputs, RunFolder
from runner.contract.promotions import current_run, withdraw
from runner.contract.record import Erased, RunRecord, read_record, write_record
from runner.contract.token_entries import sweep_entries
from runner.errors import RunnerError
from runner.files.durable import sync_folder

_STAYS = ("run.json", "spec.yaml", "log.jsonl")
"""Of a run: what it was, and when what was done. No row stands in them."""
_STAYS_OF_ATTEMPT = ("metrics.jsonl",)  # the figures of the loss curve


class NotErasableError(RunnerError):
    """A run cannot be erased now."""

    kind = "not_erasable"


def check_erasable(
    outputs: Outputs, run: RunFolder, *, with_adapter: bool, whole_job: bool
) -> RunRecord:
    """Read the record of a run that is to be erased.

    An adapter in use goes only with its whole job: whoever serves it has nothing to serve then.

    Raises:
        NotErasableError: it is under way, or its adapter is in use.
        RunnerError, OSError: its record cannot be read.
    """
    record = read_record(run.record)
    name = f"{run.job}/{run.run_id}"
    if not record.state.is_final:
        raise NotErasableError(
            f"{name} is under way: {record.state.value}",
            advice=f"Cancel it first: runner cancel {run.run_id}",
        )
    is_current = current_run(outputs, run.job) == run.run_id
    if with_adapter and is_current and not whole_job:
        raise NotErasableError(
            f"The adapter of {name} is in use: outputs/{run.job}/current leads to it",
            advice=f"Put another one into use first (runner promote RUN, runner rollback "
            f"{run.job}), erase the rows alone, without --with-adapter, or the whole job: "
            f"runner erase {run.job} --with-adapter",
        )
    return record


def erase(
    outputs: Outputs, run: RunFolder, *, by: str, with_adapter: bool, whole_job: bool
) -> RunRecord:
    """Erase a run's rows; give its new record. Erasing twice does no harm.

    Args:
        outputs: the folder that it lies in.
        run: it.
        by: who asked for it.
        with_adapter: the adapter goes as well: it may repeat passages of what it learned.
        whole_job: all runs of its job are erased, an adapter in use among them.

    Raises:
        NotErasableError, RunnerError: as ``check_erasable``; then nothing was erased.
        OSError: something cannot be removed; the record says nothing of it yet.
    """
    record = check_erasable(outputs, run, with_adapter=with_adapter, whole_job=whole_job)
    if with_adapter and current_run(outputs, run.job) == run.run_id:
        withdraw(outputs, run.job, why=f"{by} asked to erase the job", by=by)
        (outputs.root / run.job / HAND_OVER_PAGE).unlink(missing_ok=True)  # it leads nowhere now
    weights = {run.adapter.name, run.merged.name, run.gguf.name}
    stays = {*_STAYS, run.attempts.name} | (set() if with_adapter else weights)
    _remove_all_but(run.root, stays)
    if run.attempts.is_dir() and not run.attempts.is_symlink():
        for attempt in list(os.scandir(run.attempts)):
            if attempt.is_dir(follow_symlinks=False):
                _remove_all_but(Path(attempt.path), set(_STAYS_OF_ATTEMPT))
            else:
                os.unlink(attempt.path)
    sync_folder(run.root)
    shutil.rmtree(outputs.going, ignore_errors=True)  # rows of its own that a kill left there
    sweep_entries(outputs.token_cache)  # tokens that no other run has
    adapter_gone = with_adapter or bool(record.erased and record.erased.adapter)
    before = record.erased
    erased = Erased(at=now(), by=by, adapter=adapter_gone)
    if before is not None and before.adapter == adapter_gone:
        erased = before  # nothing more was erased than then
    after = record.but(erased=erased, shortfalls=_shortfalls(record, erased))
    if after != record:
        write_record(run.record, after)
    return after


def sentence(erased: Erased) -> str:
    """Say it for the answer and the report."""
    day = f"{erased.at:%Y-%m-%d}"
    if erased.adapter:
        return (
            "the rows of this run and all that was made from them, and its adapter, "
            f"were erased on {day}, as {erased.by} asked"
        )
    return (
        "the rows of this run and all that was made from them, but for its adapter, "
        f"were erased on {day}, as {erased.by} asked"
    )


def _shortfalls(record: RunRecord, erased: Erased) -> tuple[str, ...]:
    old = sentence(record.erased) if record.erased is not None else None
    return (sentence(erased), *(one for one in record.shortfalls if one != old))


def _remove_all_but(folder: Path, stays: set[str]) -> None:
    for entry in list(os.scandir(folder)):
        if entry.name in stays:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
