"""Turns an empty folder of the host into a box's: jobs/, outputs/ and models/ with their owner.

`compose.yaml` runs it as root with the one capability CHOWN, before anything else starts. What is
there already keeps its content and, the inbox's aside, its mode; only its owner is set.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.contract.errors import RunnerError

FOLDERS = {"jobs": 0o2770, "outputs": 0o2750, "models": 0o2750}
"""Modes of new folders. The set-group bit lets what is dropped belong to the share's group."""
CACHE_MODE = 0o700


def make_folders(box: Path, cache: Path, *, uid: int, gid: int) -> list[str]:
    """Make what is missing; give in words what was done and what could not be."""
    said = []
    for name, mode in FOLDERS.items():
        path = box / name
        try:
            if path.is_symlink():
                said.append(f"{name} is a link and was left alone")
                continue
            if not path.exists():
                with _owned(box):
                    path.mkdir(mode=0o700)
                _give(path, mode, uid, gid)
                said.append(f"{name} was made")
                continue
            found = path.stat()
            wanted = found.st_mode | (mode if name == "jobs" else 0)
            if (found.st_uid, found.st_gid, found.st_mode) != (uid, gid, wanted):
                _give(path, stat.S_IMODE(wanted), uid, gid)
                said.append(f"{name} belongs to {uid}:{gid} now")
        except PermissionError as error:  # a network mount that maps owners, for one
            said.append(f"{name} cannot be given to {uid}:{gid}: {error.strerror}")
        except OSError as error:
            raise RunnerError(f"{name} cannot be made ready: {error.strerror}") from error
    _give(cache, CACHE_MODE, uid, gid)
    return said


def _give(path: Path, mode: int, uid: int, gid: int) -> None:
    """Set mode and owner; the mode is set while it is ours, for that needs no capability."""
    os.chown(path, os.geteuid(), os.getegid(), follow_symlinks=False)
    os.chmod(path, mode)
    os.chown(path, uid, gid, follow_symlinks=False)


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Own a folder for a moment: root without its other capabilities may not write elsewhere."""
    owner = folder.stat().st_uid
    if owner == os.geteuid():
        yield
        return
    os.chown(folder, os.geteuid(), -1)
    try:
        yield
    finally:
        os.chown(folder, owner, -1)
