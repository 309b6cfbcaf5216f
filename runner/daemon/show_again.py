"""Show again: what people see of a run that has ended is renewed when its record has changed."""

from __future__ import annotations

import contextlib
import time

from runner.contract.layout import RunFolder, claimed_name
from runner.contract.record import RunRecord
from runner.daemon.book import ENDED_SHOWN
from runner.daemon.daemon import Daemon
from runner.daemon.inbox.view import write_last_answer
from runner.errors import RunnerError


def show_again(daemon: Daemon, run: RunFolder, record: RunRecord) -> None:
    """Renew the page and the answer, where nobody has cleared them away."""
    shown = [one for one in daemon.book.ended if one.run_id != record.run_id]
    if len(shown) < len(daemon.book.ended):
        daemon.book.ended = [*shown, record][-ENDED_SHOWN:]
    daemon.reports.want(record, time.monotonic())
    name = f"{record.state.folder}/{claimed_name(record.file_name, record.run_id)}"
    with contextlib.suppress(OSError, RunnerError), daemon.open_inbox() as inbox:
        inbox.stat(name)
        write_last_answer(inbox, record, run, says=daemon.says)
