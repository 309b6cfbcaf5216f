"""Durable writes: a file is there whole or not at all, even after a power cut.

Written beside, fsync, rename, fsync of the folder: the order that POSIX needs for a rename to
survive a power cut together with what it names.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from runner.files.crash_points import reached
from runner.files.replace import replace
from runner.files.waits import waiting

TEMPORARY_PREFIX = ".tmp-"
"""Every unfinished file of the runner begins so; leftovers are swept at the daemon's start."""


def _sync(descriptor: int) -> None:
    with waiting():
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable. File systems that cannot (some shares) are left alone."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor)
    except OSError:
        pass  # FUSE and SMB mounts may refuse to sync a folder; there is no other call to make.
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make one file and its name durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def sync_tree(folder: Path) -> None:
    """Make every file below ``folder``, and the folders themselves, durable."""
    for root, _folders, files in os.walk(folder, topdown=False):
        for name in files:
            descriptor = os.open(Path(root) / name, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(root))


def write_bytes(path: Path, content: bytes, *, mode: int = 0o640) -> None:
    """Replace ``path`` by ``content`` in one step; the folder must exist."""
    try:
        _write_bytes(path, content, mode)
    except FileNotFoundError:
        # A daemon that starts has swept what was half written. Without the folder this fails, too.
        _write_bytes(path, content, mode)


def _write_bytes(path: Path, content: bytes, mode: int) -> None:
    beside = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            _sync(descriptor)
        finally:
            os.close(descriptor)
        reached("file written", path.name)
        replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    reached("file renamed", path.name)
    sync_folder(path.parent)


def write_text(path: Path, content: str, *, mode: int = 0o640) -> None:
    """Replace ``path`` by UTF-8 text in one step."""
    write_bytes(path, content.encode(), mode=mode)


def as_json(content: Any) -> bytes:
    """Write indented JSON as bytes.

    Raises:
        ValueError: it holds what JSON cannot say.
    """
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def write_json(path: Path, content: Any, *, mode: int = 0o640) -> None:
    """Replace ``path`` by indented JSON in one step."""
    write_bytes(path, as_json(content), mode=mode)


def show_json(path: Path, content: Any, *, mode: int = 0o640) -> None:
    """Replace ``path`` by indented JSON in one step, and do not wait for the disk.

    For what says nothing any more after a power cut, when it may be torn.
    """
    beside = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with open(descriptor, "wb") as file:
            file.write(as_json(content))
        replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def rename_durably(source: Path, target: Path) -> None:
    """Rename within one file system and make both folders durable; the content must be synced."""
    os.rename(source, target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How much is kept of a file that grows by lines."""

    bytes: int
    """A file that is larger is set aside under its name with .1, that one with .2, and so on."""
    files: int
    """So many at once, the one that grows included."""


def append_line(path: Path, line: bytes, *, kept: Kept | None = None) -> None:
    """Add a whole line or nothing, after whatever a power cut left of the last one.

    Nothing waits for the disk: the newest lines may go with a power cut.

    Raises:
        OSError: it cannot be added; the file is as it was.
    """
    # O_NONBLOCK: a pipe that somebody put under the file's name must not hold the writer.
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o640)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        try:
            if os.write(descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    if kept is not None and size + len(line) > kept.bytes:
        _set_aside(path, kept.files)


def _set_aside(path: Path, files: int) -> None:
    names = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, files))]
    for newer, older in reversed(list(pairwise(names))):
        with contextlib.suppress(FileNotFoundError):
            os.replace(newer, older)
