"""Doctor: does the kernel report a file dropped into jobs/, or must the folder be polled?"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler

from runner.doctor.finding import Finding, Level
from runner.files.durable import TEMPORARY_PREFIX
from runner.files.mounts import needs_polling
from runner.files.observer import new_observer

_WAIT_SECONDS = 2.0  # an event takes milliseconds
_WHY = (
    "With events a drop is seen at once and an idle box does nothing; otherwise it is looked for."
)


@dataclass(frozen=True, kw_only=True)
class Events:
    """What happened when a file was dropped."""

    remote: bool = False
    """Others write to this file system from other machines, and their events do not travel."""
    arrived: bool = False
    problem: str | None = None
    """Why it could not be tried."""
    no_watches_left: bool = False

    @property
    def polling(self) -> bool:
        """Whether the daemon must look for changes."""
        untried = self.problem is not None and not self.no_watches_left
        return self.remote or not (self.arrived or untried)


class _Waiting(FileSystemEventHandler):
    def __init__(self, name: str) -> None:
        self._name = name
        self.seen = threading.Event()

    def on_any_event(self, event: FileSystemEvent) -> None:
        if os.path.basename(os.fsdecode(event.src_path)) == self._name:
            self.seen.set()


def try_events(jobs_dir: Path, *, wait_seconds: float = _WAIT_SECONDS) -> Events:
    """Drop a file of the runner's own into the inbox and wait for its event."""
    try:
        remote = needs_polling(jobs_dir)
    except OSError:
        remote = False
    if not jobs_dir.is_dir():
        return Events(remote=remote, problem="there is no inbox yet")
    path = jobs_dir / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    waiting = _Waiting(path.name)
    observer = new_observer()
    try:
        observer.schedule(waiting, str(jobs_dir), recursive=False)
        observer.start()
    except OSError as error:
        full = error.errno in (errno.EMFILE, errno.ENOSPC)
        return Events(remote=remote, problem=error.strerror, no_watches_left=full)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        arrived = waiting.seen.wait(wait_seconds)
    except OSError as error:
        return Events(remote=remote, problem=error.strerror)
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        observer.stop()
        observer.join(timeout=5.0)
    return Events(remote=remote, arrived=arrived)


def judge_events(facts: Events) -> Finding:
    """Say how drops are noticed; both ways work."""
    if facts.remote:
        return _finding(
            Level.OK, "jobs/ is a network or shared folder: the runner looks at it every second."
        )
    if facts.arrived:
        return _finding(Level.OK, "A file dropped into jobs/ is noticed immediately.")
    if facts.no_watches_left:
        return _finding(
            Level.ADVICE,
            "The machine has no inotify watches left; the runner polls jobs/.",
            "sudo sysctl fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=524288",
        )
    if facts.problem:
        return _finding(
            Level.SKIPPED, f"Events in jobs/ could not be tried: {facts.problem.lower()}."
        )
    return _finding(
        Level.ADVICE,
        "A file dropped into jobs/ makes no event; the runner polls.",
        "findmnt -T jobs    # a local file system (ext4, XFS) reports changes",
    )


def _finding(level: Level, what: str, fix: str = "") -> Finding:
    return Finding(check="File events", level=level, what=what, why=_WHY, fix=fix)
