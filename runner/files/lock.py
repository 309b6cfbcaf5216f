"""Lock: the right to be the only one, held on a file whose content names who holds it.

One of the locks lies in the shared folder, where anybody may plant a link under its name: so its
files are reached from their folder's descriptor, and links are refused.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import stat
from pathlib import Path

from runner.clock import now
from runner.errors import BusyError, UnsafePathError
from runner.files.durable import TEMPORARY_PREFIX
from runner.files.plain import open_plain, read_plain
from runner.files.replace import replace

_HOLDER_BYTES = 1024  # a line or two; more is not ours
_HOLDER = ".holder"
"""Ending of the file beside a lock that names its holder once more: SMB lets nobody else read what
is locked."""


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
            UnsafePathError: a link, a folder or a pipe lies under its name.
            OSError: it cannot be opened.
        """
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return cls._take(path, folder, what=what, holder=holder)
        finally:
            os.close(folder)

    @classmethod
    def _take(cls, path: Path, folder: int, *, what: str, holder: str | None) -> Lock:
        descriptor = _open(path.name, folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):  # the latter: SMB
                other = _holder(descriptor, path.name, folder)
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
            _write_holder(f"{path.name}{_HOLDER}", folder, f"{text}\n".encode())
        return cls(descriptor, path)

    @staticmethod
    def is_held(path: Path) -> bool:
        """Tell whether somebody holds the lock; asked without taking it from anybody."""
        try:
            descriptor = open_plain(path)
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


def _open(name: str, folder: int) -> int:
    """Open the lock's own file, which is made where it is missing."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, 0o640, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _not_a_file(name) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_a_file(name)
    return descriptor


def _not_a_file(name: str) -> UnsafePathError:
    return UnsafePathError(name, "is not a regular file", advice=f"Remove or rename {name}.")


def _write_holder(name: str, folder: int, content: bytes) -> None:
    """Write beside and rename: whatever lies under the name is replaced, never written through."""
    beside = f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(beside, flags, 0o640, dir_fd=folder)
    try:
        try:
            os.write(descriptor, content)
        finally:
            os.close(descriptor)
        replace(beside, name, folder=folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside, dir_fd=folder)
        raise


def _holder(descriptor: int, name: str, folder: int) -> str:
    """Read who holds a lock; empty where that cannot be read."""
    try:
        content = os.pread(descriptor, _HOLDER_BYTES, 0)
    except OSError:
        content = b""
    with contextlib.suppress(OSError):
        content = content or read_plain(
            f"{name}{_HOLDER}", folder=folder, limit_bytes=_HOLDER_BYTES
        )
    return content.decode(errors="replace").strip()
