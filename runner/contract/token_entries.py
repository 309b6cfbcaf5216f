"""Entries of the token cache: those that belong to no run any more are removed.

The tables of an entry are hard links of a run's files. A link count of 1 says that no run has them.
Nothing else is known or kept of who uses what, so nothing can be wrong about it.

An entry that is being made beside, by another run that is prepared at the same time, has such links
before it has its facts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from runner.files.durable import TEMPORARY_PREFIX
from runner.files.unreadable import says_what_lies_there

FACTS = "facts.json"
_ROWS = "rows.arrow"
"""Every entry has it, and every run that shares the entry."""


def sweep_entries(cache: Path) -> int:
    """Remove the entries of outputs/.runner/tokens that belong to no run; give how many.

    Call it after a run was erased. Whatever else lies there is removed, too: it is a cache.
    """
    removed = 0
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(cache)):
            if _is_used(entry.path):
                continue
            removed += 1
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)
    return removed


def _is_used(entry: str) -> bool:
    try:
        if not os.path.basename(entry).startswith(TEMPORARY_PREFIX):
            os.lstat(os.path.join(entry, FACTS))
        return os.lstat(os.path.join(entry, _ROWS)).st_nlink > 1
    except OSError as error:
        return not says_what_lies_there(error)
