"""The daemon's parts, which every step of its loop is given: settings, book, log, inbox, GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runner.card.memory import GpuWatch
from runner.contract.settings import Settings
from runner.daemon.book import Book, Live
from runner.daemon.gpu_guard import GpuGuard
from runner.daemon.inbox.data_ready import DataWatch
from runner.daemon.inbox.gate import InboxGate
from runner.daemon.log import Log
from runner.daemon.wakeup import Wakeup
from runner.files.beneath import Folder


class Daemon:
    """What a step of the loop works with; the runs themselves stand in its book."""

    def __init__(self, settings: Settings) -> None:
        """Begin with nothing; the conductor fills in what lies on disk."""
        self.settings = settings
        self.outputs = settings.outputs
        self.book = Book()
        self.log = Log(self.outputs.daemon_log)
        self.wakeup = Wakeup()
        self.inbox = InboxGate(settings)
        self.data = DataWatch(settle_seconds=settings.settle_seconds)
        self.gpu = GpuWatch(settings.device)
        self.guard = GpuGuard(
            device=settings.device, patience_seconds=settings.gpu_lost_seconds, say=self.log.say
        )
        self.stopping = False
        self.hurry = False
        """Asked to stop a second time: nobody is waited for any more."""
        self.hold: tuple[float, str] | None = None
        """Until when (monotonic) nothing starts, and why."""
        self.inbox_problem = ""
        """Why the inbox cannot be used; empty when it can."""
        self.next_look = 0.0
        """Monotonic time at which the inbox must be looked at; 0: whenever."""
        self.room_made_at = 0.0
        """Monotonic time of the last search for checkpoints that may go."""
        self.troubles: set[str] = set()
        """What could not be written in this round of the loop, and why."""

    def open_inbox(self) -> Folder:
        """Open the inbox.

        Raises:
            RunnerError, OSError: it is not there; nothing may be concluded from what is.
        """
        return self.inbox.open(self.book.runs)  # one that ended stays there until that is shown

    def say(self, live: Live, event: str, *, level: str = "info", **facts: Any) -> None:
        """Log an event of a run."""
        self.log.say(event, level=level, run_log=live.run.log, run=live.record.run_id, **facts)

    @contextmanager
    def noting_trouble(self, what: str = "the outputs folder cannot be written") -> Iterator[None]:
        """Go on where something cannot be written: the next round tries again.

        Nothing is lost by it: a change is remembered only after it is on disk.
        """
        try:
            yield
        except OSError as error:
            self.troubles.add(f"{what} ({error.strerror or error})")
