"""Turns a few megabytes of memory into a disk that can be filled, for a test that runs as root."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(at: Path, *, megabytes: int) -> Iterator[Path]:
    """Mount a small file system at a folder; skipped, loudly, where that is not allowed."""
    at.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0770", "tmpfs", str(at)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"NO SMALL DISK HERE (root and mount are needed): {done.stderr.strip()}")
    try:
        yield at
    finally:
        # Lazily: a stage that is just ending may still have its log open there.
        subprocess.run(["umount", "-l", str(at)], check=True)
