"""Socket folder: a short path for a Unix socket, removed even where its maker was killed.

The path of a socket has 107 bytes at most, and that of a run's folder is longer: so it lies in the
folder for temporary files. Its maker holds a lock on it, which the kernel takes away with the
process: an unlocked folder belongs to nobody any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "rsock-"
_SOCKET = "s.sock"  # llama-server knows a socket by this ending


@contextlib.contextmanager
def socket_path() -> Iterator[Path]:
    """Give the path of a socket that only this user may reach; it goes afterwards."""
    sweep_socket_folders()
    folder, held = _made()
    try:
        yield folder / _SOCKET
    finally:
        _remove(folder)
        os.close(held)


def _made() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))  # mode 0700
        with contextlib.suppress(FileNotFoundError):  # swept between its making and its lock
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(held, fcntl.LOCK_EX)
            if folder.is_dir():
                return folder, held
            os.close(held)


def sweep_socket_folders() -> None:
    """Remove the folders whose makers were killed."""
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX):
                with contextlib.suppress(OSError):
                    _remove_if_left(Path(entry.path))


def _remove_if_left(folder: Path) -> None:
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(held).st_uid != os.geteuid():
            return
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: somebody is at work with it
        _remove(folder)
    finally:
        os.close(held)


def _remove(folder: Path) -> None:
    """Remove it, and nothing that is not ours."""
    with contextlib.suppress(OSError):
        (folder / _SOCKET).unlink(missing_ok=True)
        folder.rmdir()
