"""Hashes of large files, made in a thread: gigabytes take seconds, and the daemon's loop goes on.

A hash is remembered as long as the file stays as it was (device, inode, size and times), in this
process only: the next start hashes anew, so a disk that lost bits meanwhile is found out.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path

from runner.contract.checkpoints import sha256_of
from runner.daemon.ask_aside import NotYet

AT_ONCE_BYTES = 1024 * 1024
"""Hashed where it stands: about 2 ms. Configurations and manifests are smaller, weights larger."""
_REMEMBERED = 1024  # files: the checkpoints of a few dozen runs, some 300 bytes each
_Stamp = tuple[int, int, int, int, int]


class StillHashing(NotYet):
    """The hash of a file is being made."""


class Hashes:
    """Hashes files, large ones one after the other in a thread of its own."""

    def __init__(self, *, done: Callable[[], object]) -> None:
        """``done`` is called from the thread after each file."""
        self._done = done
        self._known: dict[Path, tuple[_Stamp, str | OSError]] = {}
        self._asked: set[Path] = set()
        self._queue: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def of(self, path: Path) -> str:
        """Give a file's SHA-256.

        Raises:
            StillHashing: it is not known yet; it is from now on being made.
            OSError: the file cannot be read.
        """
        stamp = _stamp(path)
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            if isinstance(known[1], OSError):
                del self._known[path]  # told once; asked again, it is read again
                raise known[1]
            return known[1]
        if stamp[2] <= AT_ONCE_BYTES:
            return sha256_of(path)
        self._ask(path)
        raise StillHashing(path.name)

    @property
    def at_work(self) -> bool:
        """Whether some file is being hashed."""
        return bool(self._asked)

    def _ask(self, path: Path) -> None:
        if path in self._asked:
            return
        self._asked.add(path)
        if self._thread is None:
            # A daemon thread: a disk that never answers must not keep the process from ending.
            self._thread = threading.Thread(target=self._work, name="hashes", daemon=True)
            self._thread.start()
        self._queue.put(path)

    def _work(self) -> None:
        while True:
            path = self._queue.get()
            try:
                stamp = _stamp(path)  # before: should it change meanwhile, it is hashed again
                answer: str | OSError = sha256_of(path)
            except OSError as error:
                stamp, answer = _stamp_or_nothing(path), error
            while len(self._known) >= _REMEMBERED:
                self._known.pop(next(iter(self._known)), None)
            self._known[path] = (stamp, answer)
            self._asked.discard(path)
            self._done()


def _stamp(path: Path) -> _Stamp:
    found = os.stat(path)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _stamp_or_nothing(path: Path) -> _Stamp:
    try:
        return _stamp(path)
    except OSError:
        return (0, 0, 0, 0, 0)
