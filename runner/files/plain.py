"""Read a plain file and nothing else: no link, no pipe that would hold the reader, no device."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def open_plain(path: Path | str, *, folder: int | None = None) -> int:
    """Open a regular file for reading; ``folder``: a descriptor that ``path`` starts from.

    Raises:
        OSError: it is missing, unreadable, a link, or no regular file.
    """
    # O_NONBLOCK: opening a pipe must not wait for a writer; a plain file ignores it.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(path, flags, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))
    return descriptor


def read_plain(path: Path | str, *, limit_bytes: int, folder: int | None = None) -> bytes:
    """Read at most ``limit_bytes`` + 1 bytes of a regular file (one more tells "too large").

    Raises:
        OSError: as ``open_plain``.
    """
    with open(open_plain(path, folder=folder), "rb") as file:
        return file.read(limit_bytes + 1)
