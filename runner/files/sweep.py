"""Sweep: removes the half-written files and folders that a killed process left in a folder."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from runner.files.durable import TEMPORARY_PREFIX, sync_folder

# Only names that the runner itself makes: a person may well have a .tmp-something in the inbox.
OURS = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}[0-9a-f]{{12}}(-link)?")


def _unfinished(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from [entry for entry in entries if OURS.fullmatch(entry.name)]
    except OSError:  # not there, or not ours to look into: then nothing in it is either
        return


def sweep_folder(folder: Path) -> None:
    """Remove unfinished files and folders directly in ``folder``."""
    for entry in _unfinished(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)


def discard_folder(folder: Path) -> None:
    """Take a folder away: gone under its name in one step, whatever comes in between."""
    doomed = folder.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    os.rename(folder, doomed)
    sync_folder(folder.parent)
    shutil.rmtree(doomed, ignore_errors=True)
