"""Mounts: which file system a folder lies on, and whether other machines write to it."""

from __future__ import annotations

import os
from pathlib import Path

_REMOTE = ("nfs", "cifs", "smb", "fuse", "9p", "virtiofs", "vboxsf", "prl_fs")


def needs_polling(folder: Path, *, mounts: str | None = None) -> bool:
    """Whether events of other machines do not reach this folder's file system."""
    text = mounts if mounts is not None else Path("/proc/self/mounts").read_text()
    path = os.path.realpath(folder)
    best, kind = "", ""
    for line in text.splitlines():
        fields = line.split()
        point = fields[1].replace("\\040", " ")
        within = path == point or path.startswith(point.rstrip("/") + "/")
        if within and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind.startswith(_REMOTE)
