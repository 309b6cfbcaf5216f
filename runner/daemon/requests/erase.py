"""Erase: a run's rows go because somebody asked for it, under outputs/ and on the share."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from runner.contract.erase import erase
from runner.contract.layout import RATE, STATE_FOLDERS, RunFolder, rate_names, report_name
from runner.contract.record import RunRecord
from runner.contract.requests import Request
from runner.daemon.ask_aside import Aside
from runner.daemon.daemon import Daemon
from runner.daemon.show_again import show_again
from runner.errors import RunnerError, UnsafePathError
from runner.files.beneath import Folder
from runner.words import visible


@dataclass(frozen=True, kw_only=True)
class Erasing:
    """A run is being erased, in a thread: checkpoints have gigabytes."""

    request: str
    aside: Aside[RunRecord | str]
    """Gives the record afterwards, or why it could not be done."""


def carry_out_erase(daemon: Daemon, request: Request) -> bool:
    """Erase what was asked for: True once it is, or cannot be; False: not yet."""
    job, run_id = str(request.args.get("job")), str(request.args.get("run_id"))
    if (job, run_id) not in daemon.outputs.run_names() or run_id in daemon.book.runs:
        return _refused(daemon, run_id, "there is no such run, or it is under way")
    if daemon.again is not None and daemon.again.live.record.run_id == run_id:
        return False  # it is being evaluated again, from its rows
    run = daemon.outputs.run(job, run_id)
    erasing = daemon.erasing
    if erasing is None:
        erasing = daemon.erasing = _begin(daemon, run, request)
        erasing.aside.ask(time.monotonic())
    if erasing.request != request.path.name:
        return False  # one after the other
    answered = erasing.aside.take()
    if answered is None:
        return False
    daemon.erasing = None
    if isinstance(answered.value, str):
        return _refused(daemon, run_id, answered.value)
    daemon.log.say(f"{job}: rows were erased", run=run_id, by=request.args.get("by"))
    _show(daemon, run, answered.value)
    return True


def _begin(daemon: Daemon, run: RunFolder, request: Request) -> Erasing:
    by = str(request.args.get("by") or "somebody")
    how = {name: bool(request.args.get(name)) for name in ("with_adapter", "whole_job")}

    def ask() -> RunRecord | str:
        try:
            return erase(daemon.outputs, run, by=by, **how)
        except RunnerError as error:
            return error.message
        except OSError as error:
            return f"{error.filename or run.root}: {error.strerror or error}"

    return Erasing(request=request.path.name, aside=Aside(ask, done=daemon.wakeup.set))


def _refused(daemon: Daemon, run_id: str, why: str) -> bool:
    name, why = visible(run_id), visible(why)
    daemon.log.say(f"erase {name}: cannot be done", level="warning", reason=why)
    daemon.note(_about(run_id), f"{name} was to be erased, and that could not be done: {why}")
    return True


def _about(run_id: str) -> str:
    return f"erase {run_id}"


def _show(daemon: Daemon, run: RunFolder, record: RunRecord) -> None:
    """Remove its pages and tables from the share, and show what is left."""
    what = f"{visible(record.job)} ({record.run_id}): its pages in jobs/"
    with daemon.noting(_about(record.run_id), what), daemon.open_inbox() as inbox:
        _remove_pages(inbox, record)
    show_again(daemon, run, record)


def _remove_pages(inbox: Folder, record: RunRecord) -> None:
    page = report_name(record.file_name, record.run_id)
    places = [(folder, page) for folder in STATE_FOLDERS]
    for table in rate_names(record.job, record.run_id):
        places += [(RATE, table), (RATE, f"{table}.txt")]
    for folder, name in places:
        with (
            contextlib.suppress(FileNotFoundError, UnsafePathError),
            inbox.open_folder(folder) as held,
        ):
            held.remove_file(name)
