"""Show what is in use: after a change, the pages and answers of the runs that it is about.

Those of the run that came into use and of the one before say so; nobody reads in an old answer that
an adapter is in use which is so no more.
"""

from __future__ import annotations

import os

from runner.contract.hand_over_page import write_hand_over_page
from runner.contract.promotions import known_current, read_promotions
from runner.contract.record import read_record
from runner.contract.states import State
from runner.daemon.daemon import Daemon
from runner.daemon.show_again import show_again
from runner.errors import RunnerError
from runner.words import visible


def show_use(daemon: Daemon, job: str) -> None:
    """Renew what is said of the run in use and of the one before it."""
    daemon.to_tidy.add(job)
    with daemon.noting(f"HANDOVER.md of {job}", f"outputs/{visible(job)}/HANDOVER.md"):
        write_hand_over_page(daemon.outputs, job)
    try:
        changes = read_promotions(daemon.outputs, job)
    except OSError:
        return
    for run_id in dict.fromkeys(one for c in changes[-1:] for one in (c.before, c.run_id) if one):
        run = daemon.outputs.run(job, run_id)
        if run_id in daemon.book.runs:
            continue  # it is being shown anyway
        try:
            record = read_record(run.record)
        except (OSError, RunnerError):
            continue  # deleted: there is nothing to say it on
        if record.state is State.SUCCEEDED:
            show_again(daemon, run, record)


def not_in_use(job: str) -> str:
    """Name what a person must know of a run that was to come into use and could not."""
    return f"run for current of {job}"


def is_said(daemon: Daemon, job: str) -> bool:
    """Whether the page of the run in use is newer than the last change."""
    try:
        run_id = known_current(daemon.outputs, job)
        if run_id is None:
            return True
        page = daemon.outputs.run(job, run_id).report
        changed = os.stat(daemon.outputs.promotions(job), follow_symlinks=False).st_mtime_ns
        return os.stat(page, follow_symlinks=False).st_mtime_ns >= changed
    except OSError:
        return False
