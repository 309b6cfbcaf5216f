"""axe-core, the accessibility rules: fetched from npm into a cache, never part of this tree."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

VERSION = "4.14.1"


def cached() -> Path:
    """Say where it lies once it has been fetched."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "finetuning-box-tests" / f"axe-core-{VERSION}.min.js"


def fetch() -> str:
    """Give its source.

    Raises:
        OSError, subprocess.SubprocessError: npm or the network is missing.
    """
    target = cached()
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "pack", "--silent", f"axe-core@{VERSION}"],
            cwd=target.parent,
            check=True,
            capture_output=True,
            timeout=120,
        )
        packed = target.parent / f"axe-core-{VERSION}.tgz"
        with tarfile.open(packed) as archive:
            content = archive.extractfile("package/axe.min.js")
            assert content is not None
            beside = target.with_suffix(".part")
            beside.write_bytes(content.read())
        beside.rename(target)
        packed.unlink()
    return target.read_text(encoding="utf-8")
