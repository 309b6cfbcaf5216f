"""Entries of the base cache: which are kept, and which go when the disk is short.

An entry is a folder with the 4-bit weights of one base model. It holds nothing of a run and can be
made again from models/, so all of them may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

from runner.files.sweep import discard_folder, sweep_folder

ENTRY_FACTS = "facts.json"
"""Written last; when an entry is used, its time is set anew."""
MOST_ENTRIES = 3
"""Base models that a box goes on using, generously: an 8B's entry takes 5.3 GiB."""
_FACTS_BYTES = 1024 * 1024  # a larger facts.json is not ours


def sweep_bases(cache: Path, *, most: int = MOST_ENTRIES) -> int:
    """Keep the entries of outputs/.runner/bases that were used last; give how many were removed.

    What is half-written goes, and the entry of a model that is no longer on the box.
    """
    sweep_folder(cache)
    aged = sorted(((_used_at(entry), entry) for entry in _entries(cache)), reverse=True)
    doomed = [entry for number, (at, entry) in enumerate(aged) if number >= most or at < 0]
    for entry in doomed:
        with contextlib.suppress(OSError):
            discard_folder(entry)
    return len(doomed)


def drop_bases(cache: Path) -> int:
    """Remove every entry: the disk is short. A run that reads one keeps what it has open."""
    return sweep_bases(cache, most=0)


def read_entry_facts(entry: Path) -> dict[str, object]:
    """Read what an entry says of itself.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none of ours.
    """
    with (entry / ENTRY_FACTS).open("rb") as file:
        facts = json.loads(file.read(_FACTS_BYTES))
    if not isinstance(facts, dict):
        raise ValueError("not an object")  # noqa: TRY004  (as what is no JSON raises)
    return facts


def _entries(cache: Path) -> list[Path]:
    try:
        with os.scandir(cache) as found:
            there = list(found)
    except OSError:
        return []
    for other in there:  # it is a cache: what is no entry has no business there
        if not other.is_dir(follow_symlinks=False):
            with contextlib.suppress(OSError):
                os.unlink(other.path)
    return [Path(one.path) for one in there if one.is_dir(follow_symlinks=False)]


def _used_at(entry: Path) -> float:
    """Say when an entry was used last; -1: it is of no use."""
    try:
        folder = read_entry_facts(entry)["folder"]
        there = isinstance(folder, str) and os.path.isfile(os.path.join(folder, "config.json"))
        return os.lstat(entry / ENTRY_FACTS).st_mtime if there else -1.0
    except (OSError, ValueError, KeyError):
        return -1.0


def make_room_for(cache: Path, needed: int, *, leave: int) -> bool:
    """Say whether an entry of so many bytes fits; the oldest others go for it."""
    for most in range(MOST_ENTRIES - 1, -1, -1):
        sweep_bases(cache, most=most)
        with contextlib.suppress(OSError):
            if shutil.disk_usage(cache).free >= needed + leave:
                return True
    return False
