"""Prune: of the checkpoints in a folder the newest stay, and the best one.

An attempt prunes what it has sealed itself, the daemon what it has adopted.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from runner.contract.checkpoints import names, step_of
from runner.files.crash_points import reached
from runner.files.durable import TEMPORARY_PREFIX, sync_folder

KEEP_NEWEST = 2  # one to go on from, one in case that is damaged


def prune(checkpoints: Path, *, best_step: int | None, keep: int = KEEP_NEWEST) -> None:
    """Keep the newest checkpoints of a folder and the best one.

    Called where the newest is known to be good, or where better ones are sealed elsewhere. One that
    cannot go now stays for the next call: by SMB that is one whose file a program here has open.

    Args:
        checkpoints: the folder.
        best_step: of the lowest held-out loss; None: nothing is held out.
        keep: so many of the newest.
    """
    kept = 0
    for name in names(checkpoints):
        if kept < keep or step_of(name) == best_step:
            kept += 1
            continue
        doomed = checkpoints / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
        try:
            os.rename(checkpoints / name, doomed)  # gone in one step, whatever comes
        except OSError:  # what lies there too long costs room, a training that it ends a night
            continue
        reached("checkpoint doomed")
        sync_folder(checkpoints)
        shutil.rmtree(doomed, ignore_errors=True)
