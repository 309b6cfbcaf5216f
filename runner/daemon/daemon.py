"""The daemon's parts, which every step of its loop is given: settings, book, log, inbox, cards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from runner.card.find_cards import NamedCard
from runner.contract.record import RunRecord
from runner.contract.settings import Settings
from runner.daemon.book import Book, Live
from runner.daemon.cards import Cards
from runner.daemon.cluster.cluster import Cluster
from runner.daemon.hashes import Hashes
from runner.daemon.inbox.gate import InboxGate
from runner.daemon.inbox.view import Says
from runner.daemon.inbox.wait_for_data import DataWatch
from runner.daemon.log import Log
from runner.daemon.reports import Reports
from runner.daemon.wakeup import Wakeup
from runner.errors import BOX_WIDE, UnsafePathError
from runner.files.beneath import Folder
from runner.language.speaker import Speaker, language_of
from runner.words import visible

_LONGEST_REST_SECONDS = 60.0  # between two tries of a run whose own folder is in the way


class Daemon:
    """What a step of the loop works with; the runs themselves stand in its book."""

    def __init__(self, settings: Settings, named_cards: Sequence[NamedCard] = ()) -> None:
        """Begin with nothing; the conductor fills in what lies on disk.

        Args:
            settings: the box owner's.
            named_cards: the cards that the setting ``gpus`` names, where it names any.
        """
        self.settings = settings
        self.outputs = settings.outputs
        self.book = Book(self.outputs)
        self.log = Log(self.outputs.daemon_log)
        self.wakeup = Wakeup()
        self.inbox = InboxGate(settings)
        self.data = DataWatch(settle_seconds=settings.settle_seconds)
        self.cards = Cards(settings, named_cards, say=self.log.say, done=self.wakeup.set)
        self.stopping = False
        self.hurry = False
        """Asked to stop a second time: nobody is waited for any more."""
        self.hold: tuple[float, str] | None = None
        """Until when (monotonic) nothing starts, and why."""
        self.inbox_problem = ""
        """Why the inbox cannot be used; empty when it can."""
        self.next_look = 0.0
        """Monotonic time at which the inbox must be looked at; 0: whenever."""
        self.full_look_at = 0.0
        """Monotonic time from which the folders of runs that are over are looked into as well."""
        self.says = Says(
            speak=Speaker(language_of(settings.language, os.environ)),
            share_name=settings.share_name,
            reports=settings.reports,
        )
        self.reports = Reports(settings, say=self.log.say)
        self.hashes = Hashes(done=self.wakeup.set)
        self.looked_fully: tuple[float, tuple[int, ...]] | None = None
        """When (monotonic) the folders of runs that are over were listed, and their times then."""
        self.room_made_at = 0.0
        """Monotonic time of the last search for checkpoints that may go."""
        self.room_search: Iterator[bool] | None = None
        """A search that is not through all runs yet; it goes on in the next round."""
        self.to_tidy: set[str] = set()
        """Jobs of which a run has ended, or another has come into use: old files may go."""
        self.to_promote: list[RunRecord] = []
        """Runs that the gate let pass and that are not current yet."""
        self.scheduled_data: frozenset[str] = frozenset()
        """Data that specs in jobs/scheduled/ name: it is no stray, whenever they come next."""
        self.again: Any = None
        """A run that has ended and is at work again, as requests/again.py has it; or None."""
        self.cluster: Cluster | None = None
        """Further boxes that train; None: there are none."""
        self.erasing: Any = None
        """A run that is being erased, as requests/erase.py has it; or None."""
        self.given_up: set[str] = set()
        """Requests that can neither be carried out nor removed."""
        self.notes: dict[str, str] = {}
        """What a person should know and nothing waits for, by what it is about."""
        self.last_troubles: set[str] = set()
        """Those of the round before: STATUS.txt is written in the middle of one."""
        self.troubles: set[str] = set()
        """What could not be written in this round of the loop, and why."""

    def open_inbox(self) -> Folder:
        """Open the inbox.

        Raises:
            RunnerError, OSError: it is not there; nothing may be concluded from what is.
        """
        # One that ended stays in the book until that is shown.
        return self.inbox.open(lambda: self.book.runs)

    def say(self, live: Live, event: str, *, level: str = "info", **facts: Any) -> None:
        """Log an event of a run."""
        self.log.say(event, level=level, run_log=live.run.log, run=live.record.run_id, **facts)

    def look_by(self, at: float) -> None:
        """Look at the inbox at this time, or sooner where that was wanted already."""
        self.next_look = min(self.next_look or at, at)

    def begin_round(self) -> None:
        """Forget what was in the way: what still is will be met again."""
        self.last_troubles, self.troubles = self.troubles, set()

    def note(self, about: str, what: str | None) -> None:
        """Show a sentence in STATUS.txt until it is over (None); it is logged once."""
        if what is None:
            self.notes.pop(about, None)
        elif self.notes.get(about) != what:
            self.notes[about] = what
            self.log.say(what, level="warning")

    @contextmanager
    def noting(self, about: str, what: str) -> Iterator[None]:
        """Keep one file's trouble to that file: it is shown, and everything else goes on.

        A full disk is everybody's trouble, and so is a share that does not answer.
        """
        try:
            yield
        except (OSError, UnsafePathError) as error:
            if getattr(error, "errno", None) in BOX_WIDE:
                raise
            why = (isinstance(error, OSError) and error.strerror) or str(error)
            self.note(about, f"{what} cannot be read or written ({why})")
        else:
            self.note(about, None)

    @contextmanager
    def isolating(self, live: Live, at: float) -> Iterator[None]:
        """Keep one run's trouble to that run: the others go on, and it is tried again later.

        A full disk is everybody's trouble, and no run rests because of it.
        """
        try:
            yield
        except OSError as error:
            if error.errno in BOX_WIDE:
                self.troubles.add(f"the outputs folder cannot be written ({error.strerror})")
                return
            live.failures_in_a_row += 1
            rest = min(2.0 ** (live.failures_in_a_row - 1), _LONGEST_REST_SECONDS)
            live.rests_until = at + rest
            where = f"outputs/{visible(live.run.job)}/{live.run.run_id}"
            why = error.strerror or str(error)
            self.note(live.run.run_id, f"{where} cannot be used ({why}); it is tried again.")

    @contextmanager
    def noting_trouble(self, what: str = "the outputs folder cannot be written") -> Iterator[None]:
        """Go on where something cannot be written: the next round tries again.

        Nothing is lost by it: a change is remembered only after it is on disk.
        """
        try:
            yield
        except OSError as error:
            self.troubles.add(f"{what} ({error.strerror or error})")
