"""Turns what Trainer wrote into the attempt's work folder into a checkpoint that can be trusted.

Written elsewhere, hashed, synced, renamed: `contract/checkpoints.py` says how it is verified.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from runner.contract.checkpoints import (
    MANIFEST,
    CheckpointFile,
    Manifest,
    names,
    sha256_of,
    step_of,
    verified,
)
from runner.contract.crash_points import reached
from runner.contract.durable import (
    TEMPORARY_PREFIX,
    rename_durably,
    sync_folder,
    sync_tree,
    write_json,
)
from runner.contract.layout import RunFolder

KEEP_NEWEST = 2  # one to go on from, one in case that is damaged
_NOT_KEPT = ("training_args.bin", "README.md")  # a pickle, and boilerplate about nobody's run


def seal(written: Path, run: RunFolder, manifest: Manifest) -> str:
    """Move a checkpoint to its place and give its name; an older verified one is never replaced."""
    target = run.checkpoint(manifest.step)
    run.checkpoints.mkdir(exist_ok=True)
    reached("checkpoint begun")
    if target.exists():
        if verified(target):
            shutil.rmtree(written)
            return target.name
        os.rename(target, run.checkpoints / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}")
    for name in _NOT_KEPT:
        (written / name).unlink(missing_ok=True)
    files = {
        path.relative_to(written).as_posix(): CheckpointFile(
            sha256=sha256_of(path), bytes=path.stat().st_size
        )
        for path in sorted(written.rglob("*"))
        if path.is_file()
    }
    full = manifest.model_copy(update={"files": files})
    write_json(written / MANIFEST, full.model_dump(mode="json"))
    sync_tree(written)
    reached("checkpoint synced")
    rename_durably(written, target)
    reached("checkpoint named")
    return target.name


def prune(run: RunFolder, *, best_step: int | None) -> None:
    """Keep the newest checkpoints and the best one."""
    kept = 0
    for name in names(run.root):
        if kept < KEEP_NEWEST or step_of(name) == best_step:
            kept += 1
            continue
        doomed = run.checkpoints / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
        os.rename(run.checkpoints / name, doomed)  # gone in one step, whatever comes
        reached("checkpoint doomed")
        sync_folder(run.checkpoints)
        shutil.rmtree(doomed, ignore_errors=True)
