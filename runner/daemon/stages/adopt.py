"""Adopt: what an attempt has sealed becomes the run's, out of the attempt's reach.

A run goes on from what the daemon has adopted. That is done when an attempt has ended, before the
record says how: from then on its folder is a fence, and whatever its process may still write there
(a machine that was frozen, a box that had lost the share) is read by nobody.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from runner.contract.checkpoints import Sha256, names, names_there, read_manifest, verified
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.prune import KEEP_NEWEST, prune
from runner.contract.record import RunRecord
from runner.contract.states import TRAINS
from runner.daemon.daemon import Daemon
from runner.daemon.stages.plans import stage_folder, training_home
from runner.errors import DamagedError, UnreadableError
from runner.files.crash_points import reached
from runner.files.durable import TEMPORARY_PREFIX, sync_folder
from runner.files.sweep import sweep_folder


def adopt(home: RunFolder, attempt: StageFolder, sha256: Sha256) -> None:
    """Move an attempt's checkpoints to the run's own; few of them stay.

    Done again after a kill in between, it does the rest.

    Args:
        home: the run, or the small run of a learning rate.
        attempt: the folder of the attempt that has ended.
        sha256: what it raises leaves all as it was, or done in part.

    Raises:
        OSError: what the attempt has left cannot be listed or read; taken for nothing, or for
            damaged, it would be removed.
    """
    found = names_there(attempt.checkpoints)
    if not found:
        return
    home.checkpoints.mkdir(exist_ok=True)
    for name in found:
        sealed, target = attempt.checkpoints / name, home.checkpoints / name
        if target.exists():  # it was sealed anew, with a held-out loss that was owed
            if not verified(sealed, sha256):
                continue
            os.rename(target, home.checkpoints / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}")
        os.rename(sealed, target)
        reached("checkpoint adopted")
    sync_folder(home.checkpoints)
    sync_folder(home.root)
    sync_folder(attempt.checkpoints)  # last: a power cut in between leaves two names, never none
    sweep_folder(attempt.checkpoints)
    with contextlib.suppress(OSError):  # not empty: one of them was torn, or it is written to
        attempt.checkpoints.rmdir()
    newest = home.checkpoints / names_there(home.checkpoints)[0]
    _prune(home.checkpoints, newest, keep=KEEP_NEWEST)


def drop_what_is_replaced(daemon: Daemon, at: float) -> None:
    """Remove adopted checkpoints once the attempt at work has sealed as many newer ones."""
    for live in daemon.book.runs.values():
        if live.child is None or live.stage not in TRAINS or live.rests_until > at:
            continue
        home = training_home(live.run, live.stage, live.record)
        sealed = StageFolder(stage_folder(live.run, live.stage, live.record)).checkpoints
        found = names(sealed)
        if len(found) >= KEEP_NEWEST and names(home.checkpoints):
            with daemon.isolating(live, at):
                _prune(home.checkpoints, sealed / found[0], keep=0)


def drop_what_was_not_adopted(run: RunFolder, record: RunRecord) -> None:
    """Remove, before a stage begins, what attempts left that does not count.

    That is what an attempt wrote after its end was recorded, and folders of attempts that never
    came into the record.
    """
    known = {run.attempt(one.number, one.token).name for one in record.attempts}
    for folder in run.attempt_folders():
        left = folder if folder.name not in known else StageFolder(folder).checkpoints
        shutil.rmtree(left, ignore_errors=True)


def _prune(checkpoints: Path, newest: Path, *, keep: int) -> None:
    """Prune; the newest checkpoint says which is the best. Where it cannot, all stay."""
    with contextlib.suppress(DamagedError, UnreadableError):
        prune(checkpoints, best_step=read_manifest(newest).best_step, keep=keep)
