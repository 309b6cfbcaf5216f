"""Similar file: what lies in the shared folder where a spec's path finds nothing.

Windows and macOS know no difference between ``Contracts.JSONL`` and ``contracts.jsonl``; the box
does. So a path that differs in this alone will never come, and is answered at once. Other near
names are only pointed out: next week's file is often named like this week's.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

from runner.contract.layout import RESERVED_FOLDERS
from runner.errors import RunnerError
from runner.files.beneath import Folder
from runner.spec.file_kinds import ROWS, SAVE_AS, ending
from runner.spec.names import is_temporary_name
from runner.words import visible

_MOST_ENTRIES = 5000  # of one folder: a listing must not hold up the daemon
_MOST_FOLDERS = 40
_NEAR = 0.8  # difflib's ratio: one slip in a short name, two or three in a long one


@dataclass(frozen=True, kw_only=True)
class Similar:
    """A file that may have been meant."""

    path: str
    """Where it lies, from the folder that paths start at."""
    same: bool
    """It differs from the path that was written only in what Windows does not tell apart."""

    def advice(self, written: str) -> str:
        """Say what to write instead."""
        here, there = PurePosixPath(written), PurePosixPath(self.path)
        where = "" if _key(str(here.parent)) == _key(str(there.parent)) else f" in {there.parent}/"
        if str(there.parent) == "." and where:
            where = " beside the spec"
        if there.name != there.name.strip():
            # Blanks around a path in a spec are not read, so this name cannot be written there.
            bare = visible(there.name.strip())
            path = visible(str(there.with_name(there.name.strip())))
            return (
                f'there is a "{visible(there.name)}"{where}, with a blank at the edge of its name: '
                f"rename it to {bare}, and write {path}"
            )
        text = f"there is a {visible(there.name)}{where}: did you mean that?"
        if (save := SAVE_AS.get(ending(there.name))) is not None:
            return f"{text} {ending(there.name)} files are not read: {save}"
        if len(there.parts) > 1 and _key(there.parts[0]) == "jobs":
            # The spec lies beside the inbox, and a path that begins with jobs/ is refused.
            within = visible(str(PurePosixPath(*there.parts[1:])))
            return f"{text} Then move the spec into {there.parts[0]}/, and write {within}"
        return f"{text} Then write {visible(self.path)}"


def similar_file(folder: Folder, path: str) -> Similar | None:
    """Find the file that was meant by a path at which nothing lies.

    Args:
        folder: where paths start: the inbox, or the spec's own folder.
        path: as the spec has it.
    """
    for written in dict.fromkeys((path, unquote(path))):
        parts = PurePosixPath(written).parts
        if found := _same(folder, parts):
            return Similar(path=found, same=True)
    near = _near_name(folder, PurePosixPath(path)) or _elsewhere(folder, PurePosixPath(path).name)
    return Similar(path=near, same=False) if near else None


def _key(name: str) -> str:
    """Bring a name to what Windows and macOS compare, and blanks to plain ones."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _entries(folder: Folder, path: str, *, folders: bool) -> list[str]:
    """List the files, or the folders, of one folder; none where it cannot be listed."""
    names: list[str] = []
    try:
        opened = folder.open_folder(path) if path not in ("", ".") else None
        try:
            for entry in itertools.islice((opened or folder).scan(), _MOST_ENTRIES):
                is_dir = entry.is_dir(follow_symlinks=False)
                if (is_dir if folders else entry.is_file(follow_symlinks=False)) and visible(
                    entry.name
                ) == entry.name:
                    names.append(entry.name)
        finally:
            if opened is not None:
                opened.close()
    except (OSError, RunnerError):
        return []
    usable = [name for name in names if not is_temporary_name(name)]
    if folders and path in ("", "."):
        usable = [name for name in usable if name.casefold() not in RESERVED_FOLDERS]
    return sorted(usable)


def _same(folder: Folder, parts: tuple[str, ...]) -> str | None:
    """Follow a path whose names are written in another case, or composed otherwise."""
    at = ""
    for number, part in enumerate(parts, start=1):
        listed = _entries(folder, at, folders=number < len(parts))
        match = next((name for name in listed if _key(name) == _key(part)), None)
        if match is None:
            return None
        at = os.path.join(at, match)
    return at or None


def _near_name(folder: Folder, path: PurePosixPath) -> str | None:
    """Find a name much like it in the same folder."""
    parent = _resolved(folder, path.parent)
    if parent is None:
        return None
    wanted, stem = _key(path.name), _key(path.stem)
    names = {
        name: _key(name)
        for name in _entries(folder, parent, folders=False)
        if ending(name) in ROWS or ending(name) in SAVE_AS
    }
    ways = (_is_same_stem, _begins_like, _is_one_slip_away)
    for fits in ways:
        if found := next((name for name, key in names.items() if fits(key, wanted, stem)), None):
            return os.path.join(parent, found)
    return None


def _is_same_stem(key: str, wanted: str, stem: str) -> bool:
    return os.path.splitext(key)[0] in (stem, wanted)


def _begins_like(key: str, _wanted: str, stem: str) -> bool:
    return len(stem) > 2 and key.startswith(stem) and not key[len(stem)].isalnum()


def _is_one_slip_away(key: str, wanted: str, _stem: str) -> bool:
    return (
        _digits_apart(key) != _digits_apart(wanted)
        and difflib.SequenceMatcher(None, key, wanted).ratio() >= _NEAR
    )


def _digits_apart(key: str) -> str:
    """Bring ``week-07`` and ``week-08`` to the same: such files come one after another."""
    return re.sub(r"\d+", "#", key)


def _resolved(folder: Folder, parent: PurePosixPath) -> str | None:
    at = ""
    for part in parent.parts:
        listed = _entries(folder, at, folders=True)
        match = next((name for name in listed if _key(name) == _key(part)), None)
        if match is None:
            return None
        at = os.path.join(at, match)
    return at


def _elsewhere(folder: Folder, name: str) -> str | None:
    """Find a file of this name in another folder: beside the spec, or one or two below it."""
    for at in itertools.islice(_folders(folder), _MOST_FOLDERS):
        for found in _entries(folder, at, folders=False):
            if _key(found) == _key(name):
                return os.path.join(at, found)
    return None


def _folders(folder: Folder) -> Iterator[str]:
    yield ""
    first = _entries(folder, "", folders=True)
    yield from first
    for at in first:
        yield from (os.path.join(at, name) for name in _entries(folder, at, folders=True))
