"""Put in place: a form is written beside, and named when every byte is on the disk."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from runner.files.crash_points import reached
from runner.files.durable import TEMPORARY_PREFIX, rename_durably, sync_tree
from runner.files.sweep import discard_folder


@contextlib.contextmanager
def beside(root: Path) -> Iterator[Path]:
    """Give a folder that goes afterwards; after a kill, it is swept by its name."""
    folder = root / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    folder.mkdir()
    reached("form begun")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(written: Path, target: Path) -> None:
    """Name a finished file or folder; what had the name before is gone afterwards."""
    if written.is_dir():
        for file in written.rglob("*"):
            file.chmod(0o750 if file.is_dir() else 0o640)  # whoever serves it may read it
        sync_tree(written)
    else:
        written.chmod(0o640)
        sync_tree(written.parent)
        target.parent.mkdir(exist_ok=True)
    reached("form synced")
    old = written.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    if target.is_dir():
        os.rename(target, old)
        reached("form set aside")
    rename_durably(written, target)
    reached("form named")
    if old.exists():
        discard_folder(old)
