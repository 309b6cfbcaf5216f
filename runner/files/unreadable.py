"""Unreadable: a file that cannot be read now, which says nothing about what it holds.

A share that went away, a disk that did not answer, a file system that forgot a handle: the file may
be whole, and is again in a minute. Whoever takes that for damage throws away what is good.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from runner.errors import UnreadableError

_WHAT_LIES_THERE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO}
)
"""Nothing, a folder, a link, a pipe or a socket: an answer about the file (`open_plain`)."""
_STORAGE = frozenset(
    {errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOLINK, errno.ENOMEDIUM}
    | {errno.ENOTCONN, errno.ESHUTDOWN, errno.ECONNABORTED, errno.EHOSTDOWN}
)
"""What a disk, a soft mount and a FUSE answer that cannot reach what is asked for."""
_OF_THE_NETWORK = frozenset({"requests", "urllib3", "httpx", "httpcore", "http"})
"""Modules of libraries that looked for something on the internet: that is no storage of the box."""


def says_what_lies_there(error: OSError) -> bool:
    """Whether an error tells of the file: all others tell that it could not be looked at."""
    return error.errno in _WHAT_LIES_THERE


def storage_error(error: BaseException | None) -> OSError | None:
    """Find what of an error, or of what caused it, is of the storage; None: nothing is.

    A missing right is not: whoever dropped a file, or owns the box, can give it. Nor is what a file
    holds, so a refusal of it is none of the storage's unless that was behind it.
    """
    seen: set[int] = set()
    todo = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if type(one).__module__.partition(".")[0] in _OF_THE_NETWORK:
            continue
        if isinstance(one, UnreadableError):
            return one
        if isinstance(one, OSError) and one.errno in _STORAGE:
            return one
        todo += [one.__cause__, one.__context__]
    return None


def is_of_storage(error: BaseException | None) -> bool:
    """Whether an error is of the storage."""
    return storage_error(error) is not None


def require_storage(error: BaseException, path: os.PathLike[str] | str) -> None:
    """Let nobody take for a fault of a file what is one of the storage.

    Args:
        error: what was raised while the file was read.
        path: the file.

    Raises:
        UnreadableError: the storage has failed.
    """
    if (found := storage_error(error)) is not None:
        raise unreadable(found, path) from error


def unreadable(error: BaseException, path: os.PathLike[str] | str) -> UnreadableError:
    """Name the file: an error of reading, unlike one of opening, does not."""
    if isinstance(error, UnreadableError):
        return error
    number = getattr(error, "errno", None) or errno.EIO
    return UnreadableError(number, os.strerror(number), os.fspath(path))


@contextmanager
def reading(path: os.PathLike[str] | str) -> Iterator[None]:
    """Let pass what an error says of the file, such as that there is none.

    Raises:
        UnreadableError: it cannot be read now; nothing is known of it.
    """
    try:
        yield
    except OSError as error:
        if says_what_lies_there(error):
            raise
        raise unreadable(error, path) from error
