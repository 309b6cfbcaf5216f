"""A run's folder was deleted while it was under way: its run ends, and the queue goes on."""

from __future__ import annotations

import stat

from runner.contract.layout import RunFolder
from runner.contract.record import ErrorFacts
from runner.contract.states import State
from runner.daemon.book import Live
from runner.daemon.change_run import end_run
from runner.daemon.daemon import Daemon
from runner.words import visible

_SEEN_APART_SECONDS = 1.0
"""A folder must be missing in two looks at least so far apart: a disk may come and go."""


def end_runs_without_folder(daemon: Daemon, at: float) -> None:
    """End every run whose folder was deleted; where all of outputs/ is gone, none was."""
    gone = [
        live
        for live in daemon.book.runs.values()
        if not live.record.state.is_final and not _is_there(live.run)
    ]
    for live in daemon.book.runs.values():
        if live.folder_gone_since is not None and live not in gone:
            live.folder_gone_since = None
    if gone and not daemon.outputs.lock.is_file():
        daemon.troubles.add("the outputs folder is not there; nothing is concluded from that")
        return
    for live in gone:
        if live.folder_gone_since is None:
            live.folder_gone_since = at
            daemon.look_by(at + _SEEN_APART_SECONDS)
        elif at - live.folder_gone_since >= _SEEN_APART_SECONDS:
            with daemon.isolating(live, at):
                _end(daemon, live)


def _is_there(run: RunFolder) -> bool:
    try:
        return stat.S_ISDIR(run.root.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # it cannot be seen: that does not say that it is gone
        return True


def _end(daemon: Daemon, live: Live) -> None:
    if live.child is not None:
        live.child.kill()  # there is no folder left to leave a checkpoint in
        if live.child.poll() is None:
            return  # its end wakes the loop
        live.child = live.stage = None
    live.run.root.mkdir(parents=True, exist_ok=True)
    where = f"outputs/{visible(live.run.job)}/{live.run.run_id}"
    error = ErrorFacts(
        kind="cancelled",
        message=f"Cancelled: its folder {where}/ was deleted.",
        advice="To run the job again, drop its spec into jobs/ once more. To stop a run, delete "
        "its spec from jobs/running/ or jobs/queued/: what it has learned is kept then.",
    )
    end_run(daemon, live, State.CANCELLED, error)
