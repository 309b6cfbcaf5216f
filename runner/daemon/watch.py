"""Turns changes under the inbox into an early look at it.

Events only make the daemon look sooner; what it finds by looking is what counts. inotify does not
cross a network: on a share the daemon looks at the inbox every second instead. watchdog's polling
observer would ask for each file's status each time, also of ten thousand that are no specs: over
SMB it left the loop no time to claim anything.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from runner.contract.durable import TEMPORARY_PREFIX

_REMOTE = ("nfs", "cifs", "smb", "fuse", "9p", "virtiofs", "vboxsf", "prl_fs")
POLL_SECONDS = 1.0
"""So often the inbox is looked at where no events tell of changes."""


def needs_polling(folder: Path, *, mounts: str | None = None) -> bool:
    """Whether events of other machines do not reach this folder's file system."""
    text = mounts if mounts is not None else Path("/proc/self/mounts").read_text()
    path = os.path.realpath(folder)
    best, kind = "", ""
    for line in text.splitlines():
        fields = line.split()
        point = fields[1].replace("\\040", " ")
        within = path == point or path.startswith(point.rstrip("/") + "/")
        if within and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind.startswith(_REMOTE)


class _Handler(FileSystemEventHandler):
    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Wake the loop, but not for what it does itself or for mere reading."""
        name = os.path.basename(os.fsdecode(event.src_path))
        if event.event_type in ("opened", "closed_no_write") or name.startswith(TEMPORARY_PREFIX):
            return
        if not name.endswith(".txt"):
            self._wake()


def new_observer() -> BaseObserver:
    """Give an observer that does not write about its own end into the daemon's output."""
    logging.getLogger("watchdog").addHandler(logging.NullHandler())
    return Observer()


def watch(inbox: Path, *, polling: bool | None, wake: Callable[[], None]) -> BaseObserver | None:
    """Begin to watch the inbox and its state folders; None where no events tell of changes."""
    if needs_polling(inbox) if polling is None else polling:
        return None
    observer = new_observer()
    handler = _Handler(wake)
    try:
        for folder in (inbox, inbox / "queued", inbox / "running"):
            observer.schedule(handler, str(folder), recursive=False)
        observer.start()
    except OSError:  # no inotify watches left, or none here
        return None
    return observer
