"""Misplaced specs: those that a person put into a state folder instead of jobs/ itself.

One in queued/ or running/ was surely meant to be run: it is moved to jobs/ and taken from there. So
is the spec of a run that is over, dragged back to be run again. One in done/, failed/, rejected/ or
cancelled/ may lie there to be kept: it is left, with an answer beside it.
"""

from __future__ import annotations

import contextlib
import stat

from runner.daemon.daemon import Daemon
from runner.daemon.inbox.claim import dropped_name
from runner.daemon.inbox.view import Places
from runner.errors import UnsafePathError
from runner.files.beneath import Folder
from runner.files.settle import Look, Seen, is_settled, look_again
from runner.words import visible

_TO_RUN = ("queued", "running")


class Misplaced:
    """Remembers how they looked, from one scan to the next."""

    def __init__(self, daemon: Daemon) -> None:
        """Begin with none."""
        self.daemon = daemon
        self._seen: dict[tuple[str, str], Seen] = {}
        self._answered: set[tuple[str, str]] = set()

    def take_up(self, inbox: Folder, places: Places, at: float) -> None:
        """Move settled ones to jobs/, or answer them."""
        there = [*places.misplaced, *self._of_runs_that_are_over(places)]
        gone = {
            one
            for one in {*self._seen, *self._answered}
            if one not in there and one[0] in places.folders
        }
        self._seen = {one: seen for one, seen in self._seen.items() if one not in gone}
        self._answered -= gone
        for folder, name in there:
            if (folder, name) in self._answered or not name.isprintable():
                continue
            what = f"jobs/{folder}/{visible(name)}"
            if self._has_settled(inbox, folder, name, at):
                with self.daemon.noting(what, what), inbox.open_folder(folder) as source:
                    if folder in _TO_RUN:
                        self._move(inbox, source, name, at)
                    else:
                        self._answer(source, name, folder)

    def _of_runs_that_are_over(self, places: Places) -> list[tuple[str, str]]:
        book = self.daemon.book
        in_work = {*book.runs, *book.left_alone, *(r.run_id for r in book.damaged_now)}
        in_work |= {record.run_id for record in book.to_heal}
        return [
            place
            for run_id, place in places.where.items()
            if place[0] in _TO_RUN and run_id not in in_work and book.knows(run_id)
        ]

    def _has_settled(self, inbox: Folder, folder: str, name: str, at: float) -> bool:
        try:
            status = inbox.stat(f"{folder}/{name}")
        except (OSError, UnsafePathError):
            return False
        if not stat.S_ISREG(status.st_mode):
            return False
        look = Look.of(status)
        seen = self._seen[folder, name] = look_again(self._seen.get((folder, name)), look, at)
        settle = self.daemon.settings.settle_seconds
        if not is_settled(seen, at=at, settle_seconds=settle):
            self.daemon.look_by(at + settle)
            self.daemon.full_look_at = at
            return False
        return True

    def _move(self, inbox: Folder, source: Folder, name: str, at: float) -> None:
        target = dropped_name(name)
        source.move(name, inbox, target)
        with contextlib.suppress(OSError):  # an answer of the run that it once was, if any
            source.remove_file(f"{name}.txt")
        self.daemon.log.say(f"{visible(name)}: moved from {source.name}/ to jobs/ to be run")
        self.daemon.look_by(at)

    def _answer(self, source: Folder, name: str, folder: str) -> None:
        self._answered.add((folder, name))
        answer = f"{name}.txt"
        if len(answer.encode()) > 255 or _is_there(source, answer):
            return
        source.write_text(
            answer,
            f"{visible(name)} was not started: jobs/{folder}/ only shows jobs that are over.\n\n"
            f"To run it, move it to jobs/ itself.\n",
        )
        self.daemon.log.say(f"{visible(name)}: lies in {folder}/, where nothing is started")


def _is_there(folder: Folder, name: str) -> bool:
    try:
        folder.stat(name)
    except FileNotFoundError:
        return False
    return True
