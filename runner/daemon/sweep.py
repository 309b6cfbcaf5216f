"""Turns what a killed process left half-written into free space."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from runner.contract.beneath import Folder
from runner.contract.durable import TEMPORARY_PREFIX, sync_folder
from runner.contract.layout import STATE_FOLDERS, Outputs, RunFolder

# Only names that the runner itself makes: a person may well have a .tmp-something in the inbox.
_OURS = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}[0-9a-f]{{12}}(-link)?")


def _unfinished(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from [entry for entry in entries if _OURS.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
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


def sweep_run(run: RunFolder) -> None:
    """Remove everything unfinished in a run that no child works on."""
    for folder in (
        run.root,
        run.data,
        run.prepared,
        run.checkpoints,
        run.export,
        run.evaluation,
    ):
        sweep_folder(folder)
    with contextlib.suppress(FileNotFoundError):
        for attempt in run.attempts.iterdir():
            sweep_folder(attempt)
            # Trainer writes its checkpoints here; what was not moved away is torn.
            shutil.rmtree(attempt / "work", ignore_errors=True)


def sweep_box(outputs: Outputs) -> None:
    """Remove what the daemon itself and commands left half-written."""
    sweep_folder(outputs.private)
    sweep_folder(outputs.requests)


def sweep_inbox(inbox: Folder) -> None:
    """Remove half-written answers. A state folder that cannot be opened is left alone."""
    for name in (".", *STATE_FOLDERS):
        with contextlib.suppress(OSError), inbox.open_folder(name) as folder:
            for entry, status in folder.scan_status(lambda n: bool(_OURS.fullmatch(n))):
                if stat.S_ISREG(status.st_mode):
                    with contextlib.suppress(OSError):
                        folder.remove_file(entry.name)
