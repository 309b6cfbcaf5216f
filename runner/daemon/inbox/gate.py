"""Gate: the inbox as an open folder that surely is the inbox, held by this daemon alone.

A share that is not mounted leaves an empty folder in its place, and a box that was once started
before its share was mounted has left a marker of its own in that folder. So a marker is not enough:
it must be the marker of the inbox that the unfinished runs were dropped into.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Collection

from runner.clock import now
from runner.contract.settings import Settings
from runner.daemon.inbox import view
from runner.errors import RunnerError, UnansweredError, UnsafePathError
from runner.files.beneath import Folder
from runner.files.durable import write_text
from runner.files.lock import Lock
from runner.files.patient_calls import PatientCalls
from runner.files.plain import read_plain

_MARKER_BYTES = 1024  # a line; more is not ours


class InboxGoneError(RunnerError):
    """The shared folder is not there."""

    kind = "inbox_gone"


class OutputsError(OSError):
    """The inbox is there, and the outputs folder cannot be written."""


class InboxGate:
    """Remembers which folder is the inbox, and holds its lock while it can be reached."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is opened yet."""
        self._settings = settings
        self.calls = PatientCalls(settings.share_seconds)
        self._lock: Lock | None = None
        self.notes: list[str] = []
        """What was set aside because it stood in the way of the runner's own files."""
        self.is_fresh = True
        """Whether it must be looked through: a share that was mounted, or came back."""

    def open(self, unfinished: Callable[[], Collection[str]]) -> Folder:
        """Open the inbox; ``unfinished`` gives the ids of the runs that must show in it.

        It is asked only where another inbox than the known one lies there: it may read every run.

        Raises:
            InboxGoneError: another folder lies there.
            OutputsError: which folder it is cannot be written down.
            BusyError: another daemon holds it.
            UnansweredError: it does not answer.
            OSError: it cannot be read.
        """
        folder = Folder.open(self._settings.jobs_dir, calls=self.calls)
        try:
            self._recognise(folder, unfinished)
            self._hold(folder)
        except BaseException:
            folder.close()
            raise
        return folder

    def make(self) -> None:
        """Make the folder, where it is missing.

        Raises:
            UnansweredError, OSError: as ``open``.
        """
        self.calls(lambda: self._settings.jobs_dir.mkdir(parents=True, exist_ok=True))

    def release(self) -> None:
        """Let go of the lock; where nobody answers, it goes with this process."""
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(UnansweredError):
                self.calls(lock.release)

    def _recognise(self, folder: Folder, unfinished: Callable[[], Collection[str]]) -> None:
        known_at = self._settings.outputs.known_inbox
        try:
            known = read_plain(known_at, limit_bytes=_MARKER_BYTES).decode(errors="replace")
        except OSError:  # not written yet; or lost, and then what lies there is as good as any
            known = ""
        name = self._settings.inbox.marker.name
        try:
            found = folder.read_file(name, limit_bytes=_MARKER_BYTES).decode(errors="replace")
        except FileNotFoundError:
            found = ""
        except UnsafePathError:  # a link, a folder or a pipe: planted, for nobody has use for it
            found = ""
            self._set_aside(folder, name)
        if found and found == known:
            return
        is_first = bool(found) and not known
        if not is_first and (must_show := unfinished()) and not _shows(folder, must_show):
            what = "another folder than the one that its runs were dropped into"
            raise InboxGoneError(
                f"it has no marker {name}" if not found else f"it is {what}",
                advice="Check that the share is mounted at the jobs folder.",
            )
        if not found:
            found = f"inbox {secrets.token_hex(8)} of the fine-tuning box, {now():%Y-%m-%d}\n"
            folder.write_text(name, found)
        try:
            write_text(known_at, found)
        except OSError as error:
            raise OutputsError(error.errno, error.strerror) from error  # without a drawn name

    def _set_aside(self, folder: Folder, name: str) -> None:
        self.notes.append(f"{name} was no file and is now called {folder.set_aside(name)}")

    def _hold(self, folder: Folder) -> None:
        """Keep the lock of the folder that lies there now: it may have been mounted anew."""
        path = self._settings.inbox.lock
        if self._lock is not None:
            with contextlib.suppress(OSError):
                held = self._lock.descriptor
                if self.calls(lambda: os.path.samestat(os.lstat(path), os.fstat(held))):
                    return
            self.release()
        self.is_fresh = True
        what = f"The inbox {self._settings.jobs_dir}"
        try:
            self._lock = self.calls(lambda: Lock.take(path, what=what), undo=Lock.release)
        except UnsafePathError:
            self._set_aside(folder, path.name)
            self._lock = self.calls(lambda: Lock.take(path, what=what), undo=Lock.release)


def _shows(folder: Folder, unfinished: Collection[str]) -> bool:
    """Whether the spec of any unfinished run lies in the folder: it is the inbox, or its copy."""
    try:
        return not view.scan_view(folder).keys().isdisjoint(unfinished)
    except (OSError, UnsafePathError):
        return False
