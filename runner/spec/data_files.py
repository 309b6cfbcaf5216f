"""Data files: the files that patterns (``data/2026-*.jsonl``) and folders of a spec name."""

from __future__ import annotations

import fnmatch
import itertools
import os
import posixpath
import stat
from collections.abc import Sequence

from runner.errors import RunnerError
from runner.files.beneath import Folder
from runner.spec.file_kinds import ROWS, ending
from runner.spec.names import is_temporary_name

MOST_FILES = 1000
"""Of one pattern or folder: each is a line of the record, copied and settled on its own."""
_MOST_ENTRIES = 20_000  # of one folder: a listing must not hold up the daemon


def is_pattern(path: str) -> bool:
    """Whether a path of a spec names files by a pattern."""
    return "*" in path or "?" in path


def named_by(inbox: Folder, path: str) -> list[str] | None:
    """List the files that a pattern or a folder names, by name; None: the path is a file's own.

    Args:
        inbox: where paths start.
        path: as the spec has it, or from the inbox.

    Raises:
        OSError: the folder cannot be listed.
        UnsafePathError: it is a link, or leads out of the inbox.
    """
    if is_pattern(path):
        parent, pattern = posixpath.split(posixpath.normpath(path))
        return _listed(inbox, parent, pattern)
    if path.endswith("/") or _is_folder(inbox, path):
        return _listed(inbox, posixpath.normpath(path), "*")
    return None


def _is_folder(inbox: Folder, path: str) -> bool:
    if ending(path) in ROWS:
        return False  # spares a look: files are what nearly all specs name
    try:
        return stat.S_ISDIR(inbox.stat(path).st_mode)
    except (OSError, RunnerError):
        return False


def _listed(inbox: Folder, parent: str, pattern: str) -> list[str]:
    try:
        opened = inbox.open_folder(parent) if parent not in ("", ".") else None
    except FileNotFoundError:
        return []
    try:
        entries = itertools.islice((opened or inbox).scan(), _MOST_ENTRIES)
        names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    finally:
        if opened is not None:
            opened.close()
    wanted = [
        name
        for name in names
        if fnmatch.fnmatchcase(name, pattern)
        and not is_temporary_name(name)
        and (ending(name) in ROWS or (pattern != "*" and ending(pattern) == ending(name)))
    ]
    return [posixpath.join(parent, name) if parent != "." else name for name in sorted(wanted)]


def left_out(inbox: Folder, path: str, files: Sequence[str]) -> list[str]:
    """Name what lies where a pattern or a folder looks and is not among the files it names.

    Links, folders, files of other kinds, and names that differ from the pattern in their case; not
    what editors and sync clients put there for themselves.

    Raises:
        OSError: the folder cannot be listed.
    """
    parent, pattern = posixpath.split(posixpath.normpath(path)) if is_pattern(path) else (path, "*")
    parent = posixpath.normpath(parent) if parent else "."
    opened = inbox.open_folder(parent) if parent != "." else None
    chosen = {posixpath.basename(file) for file in files}
    try:
        return sorted(
            f"{entry.name}{_kind_of(entry)}"
            for entry in itertools.islice((opened or inbox).scan(), _MOST_ENTRIES)
            if entry.name not in chosen
            and not is_temporary_name(entry.name)
            and fnmatch.fnmatchcase(entry.name.casefold(), pattern.casefold())
        )
    finally:
        if opened is not None:
            opened.close()


def _kind_of(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return " (a link)"
    return " (a folder)" if entry.is_dir() else ""


def matches(path: str, pattern: str) -> bool:
    """Whether a file is one that a pattern or folder of a spec names."""
    parent, name = posixpath.split(path)
    if is_pattern(pattern):
        where, last = posixpath.split(posixpath.normpath(pattern))
        return parent == where and fnmatch.fnmatchcase(name, last)
    return path == pattern or parent == posixpath.normpath(pattern)
