"""Read a plain file and nothing else: no link, no pipe that would hold the reader, no device."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

_STALE_TRIES, _STALE_SECONDS = 5, 0.02
"""By NFS, what another machine replaced a moment ago is opened as it was, and is stale then. A
kernel 6.1 opened the new file 20 ms later, and not earlier, however often it was asked."""


def open_plain(path: Path | str, *, folder: int | None = None, extra_flags: int = 0) -> int:
    """Open a regular file for reading; ``folder``: a descriptor that ``path`` starts from.

    Raises:
        OSError: it is missing, unreadable, a link, or no regular file.
    """
    # O_NONBLOCK: opening a pipe must not wait for a writer; a plain file ignores it.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(path, flags | extra_flags, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))
    except OSError:  # kept open, a stale file would be what is opened the next time as well
        os.close(descriptor)
        raise
    return descriptor


def read_plain(
    path: Path | str, *, limit_bytes: int, folder: int | None = None, extra_flags: int = 0
) -> bytes:
    """Read at most ``limit_bytes`` + 1 bytes of a regular file (one more tells "too large").

    Raises:
        OSError: as ``open_plain``.
    """
    for tries_left in reversed(range(_STALE_TRIES)):
        try:
            with open(open_plain(path, folder=folder, extra_flags=extra_flags), "rb") as file:
                return file.read(limit_bytes + 1)
        except OSError as error:
            if error.errno != errno.ESTALE or not tries_left:
                raise
            time.sleep(_STALE_SECONDS)
    raise AssertionError  # the last try returns or raises
