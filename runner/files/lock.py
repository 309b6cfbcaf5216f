"""Lock: the right to be the only one, and the name of whoever holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from pathlib import Path

from runner.clock import now
from runner.errors import BusyError

_HOLDER_BYTES = 1024  # a line or two; more is not ours


class Lock:
    """A held flock; the kernel lets go of it when this process ends, however it ends."""

    def __init__(self, descriptor: int, path: Path) -> None:
        """Take over a descriptor that is locked already; see ``take``."""
        self._descriptor = descriptor
        self.path = path

    @classmethod
    def take(cls, path: Path, *, what: str, holder: str | None = None) -> Lock:
        """Take the lock, or say who holds it.

        Raises:
            BusyError: somebody else holds it.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):  # the latter: SMB
                other = _holder(descriptor, path)
                os.close(descriptor)
                raise BusyError(
                    f"{what} is held by {other or 'another process'}",
                    advice="Stop that one first, or give this one folders of its own.",
                ) from error
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                os.close(descriptor)
                raise
            # A share that knows no locks: the other lock, on local disk, still holds.
        process = f"process {os.getpid()} on {socket.gethostname()}"
        text = f"{holder or process} since {now():%Y-%m-%dT%H:%M:%SZ}"
        with contextlib.suppress(OSError):  # the name is a courtesy; a full disk may refuse it
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{text}\n".encode(), 0)
            _beside(path).write_text(f"{text}\n")
        return cls(descriptor, path)

    @staticmethod
    def is_held(path: Path) -> bool:
        """Tell whether somebody holds the lock; asked without taking it from anybody."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the latter: SMB
            return True
        finally:
            os.close(descriptor)
        return False

    @property
    def descriptor(self) -> int:
        """To hand to a child, which then holds the lock as well."""
        return self._descriptor

    def release(self) -> None:
        """Let go; safe to call twice."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1


def _beside(path: Path) -> Path:
    """Where the holder's name stands once more: SMB lets nobody else read what is locked."""
    return path.with_name(f"{path.name}.holder")


def _holder(descriptor: int, path: Path) -> str:
    """Read who holds a lock; empty where that cannot be read."""
    try:
        content = os.pread(descriptor, _HOLDER_BYTES, 0)
    except OSError:
        content = b""
    with contextlib.suppress(OSError):
        content = content or _beside(path).read_bytes()[:_HOLDER_BYTES]
    return content.decode(errors="replace").strip()
