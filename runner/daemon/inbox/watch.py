"""Watch the inbox: a change there makes the daemon look at it early.

Events only make the daemon look sooner; what it finds by looking is what counts. inotify does not
cross a network: on a share the daemon looks at the inbox every second instead. watchdog's polling
observer would ask for each file's status each time, also of ten thousand that are no specs: over
SMB it left the loop no time to claim anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver

from runner.files.durable import TEMPORARY_PREFIX
from runner.files.mounts import needs_polling
from runner.files.observer import new_observer

POLL_SECONDS = 1.0
"""So often the inbox is looked at where no events tell of changes."""

_CHANGES: list[type[FileSystemEvent]] = [
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]
"""What the kernel is asked for. Not for what is opened and read: the daemon's own looks would be
told of, and reading of them cost a third of what it costs while nothing happens."""


class _Handler(FileSystemEventHandler):
    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Wake the loop, but not for what it does itself."""
        name = os.path.basename(os.fsdecode(event.src_path))
        if not name.startswith(TEMPORARY_PREFIX) and not name.endswith(".txt"):
            self._wake()


def watch(inbox: Path, *, polling: bool | None, wake: Callable[[], None]) -> BaseObserver | None:
    """Begin to watch the inbox and its state folders; None where no events tell of changes."""
    if needs_polling(inbox) if polling is None else polling:
        return None
    observer = new_observer()
    handler = _Handler(wake)
    try:
        for folder in (inbox, inbox / "queued", inbox / "running"):
            if not folder.is_symlink():  # planted: what happens behind it is none of ours
                observer.schedule(handler, str(folder), recursive=False, event_filter=_CHANGES)
        observer.start()
    except OSError:  # no inotify watches left, or none here
        return None
    return observer
