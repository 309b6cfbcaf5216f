"""Init: an empty folder of the host becomes a box: jobs/, outputs/ and models/ with their owner.

`compose.yaml` runs it as root with the one capability CHOWN, before anything else starts. What is
there already keeps its content and, the inbox's aside, its mode; only its owner is set.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from runner.commands.starters import write_starters
from runner.errors import RunnerError

FOLDERS = {"jobs": 0o2770, "outputs": 0o2750, "models": 0o2750, "page": 0o700, "door": 0o700}
"""Modes of new folders. The set-group bit lets what is dropped belong to the share's group; page/
and door/ hold a key each, and are their owner's alone."""
WITHIN = {
    "outputs": (
        (".runner", 0o2750),
        (".runner/requests", 0o2750),
        (".runner/notices", 0o2750),
        (".runner/notices/sent", 0o2750),
    ),
}
"""Folders within them that Compose mounts by themselves: a missing one would stop the page, or
whoever sends notices."""
CACHE_MODE = 0o700


def make_folders(box: Path, cache: Path, *, uid: int, gid: int) -> list[str]:
    """Make what is missing; give in words what was done and what could not be."""
    with _owned(box):
        said = [line for name in FOLDERS for line in _make(box / name, uid, gid)]
        said += _explain(box / "jobs", uid, gid)
        for name, within in WITHIN.items():
            _make_within(box / name, within, uid, gid)
    _give(cache, CACHE_MODE, uid, gid)
    return said


def _explain(jobs: Path, uid: int, gid: int) -> list[str]:
    """Put HOWTO.txt and a first job into a new jobs folder; a box works without them."""
    if jobs.is_symlink() or not jobs.is_dir():
        return []
    try:
        mode = stat.S_IMODE(jobs.stat().st_mode)
        with _owned(jobs):
            written = write_starters(jobs, uid=uid, gid=gid)
        if written:
            _give(jobs, mode, uid, gid)
    except OSError as error:
        return [f"jobs was given no HOWTO.txt: {error.strerror}"]
    return [f"jobs was given {', '.join(written)}"] if written else []


def _make(path: Path, uid: int, gid: int) -> list[str]:
    """Make one folder or set its owner; give what is worth saying."""
    name, mode = path.name, FOLDERS[path.name]
    try:
        if path.is_symlink():
            return [f"{name} is a link and was left alone"]
        if not path.exists():
            path.mkdir(mode=0o700)
            _give(path, mode, uid, gid)
            return [f"{name} was made"]
        found = path.stat()
        wanted = found.st_mode | (mode if name == "jobs" else 0)
        if (found.st_uid, found.st_gid, found.st_mode) == (uid, gid, wanted):
            return []
        _give(path, stat.S_IMODE(wanted), uid, gid)
    except PermissionError as error:  # a network mount that maps owners, for one
        return [f"{name} cannot be given to {uid}:{gid}: {error.strerror}"]
    except OSError as error:
        raise RunnerError(
            f"{name} cannot be made ready: {error.strerror}",
            advice="Check the disk and the rights of the folder that BOX_DIR names.",
        ) from error
    return [f"{name} belongs to {uid}:{gid} now"]


def _make_within(folder: Path, within: tuple[tuple[str, int], ...], uid: int, gid: int) -> None:
    """Make what is missing in one of the folders; without it the page and notify cannot start."""
    if folder.is_symlink() or not folder.is_dir():
        return
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE(folder.stat().st_mode)
        made = False
        for name, inner in within:
            path = folder / name
            with contextlib.ExitStack() as owned:
                for parent in reversed(Path(name).parents):  # each in turn: what leads there first
                    owned.enter_context(_owned(folder / parent))
                if not os.path.lexists(path):
                    path.mkdir(mode=0o700)
                    _give(path, inner, uid, gid)
                    made = True
        if made:
            _give(folder, mode, uid, gid)


def _give(path: Path, mode: int, uid: int, gid: int) -> None:
    """Set mode and owner; the mode is set while it is ours, for that needs no capability."""
    os.chown(path, os.geteuid(), os.getegid(), follow_symlinks=False)
    os.chmod(path, mode)
    os.chown(path, uid, gid, follow_symlinks=False)


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Own a folder for a moment, where one may not work in it.

    Root without its other capabilities is a stranger in a home of mode 0700.
    """
    if os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield
        return
    owner = folder.stat().st_uid
    os.chown(folder, os.geteuid(), -1)
    try:
        yield
    finally:
        os.chown(folder, owner, -1)


def command(
    # Neither need be readable to a root that has no other capability than to give them away.
    box: Annotated[
        Path, typer.Argument(readable=False, help="The folder that holds jobs/ and the others.")
    ],
    cache: Annotated[Path, typer.Argument(readable=False, help="The cache volume.")] = Path(
        "/cache"
    ),
    uid: Annotated[int, typer.Option(envvar="PUID", min=0)] = 1000,
    gid: Annotated[int, typer.Option(envvar="PGID", min=0)] = 1000,
) -> None:
    """Make the box's folders and give them to their owner: Compose's `init` service."""
    for line in make_folders(box, cache, uid=uid, gid=gid):
        print(line)
