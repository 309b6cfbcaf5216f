"""Mounts: which file system a folder lies on, and whether other machines write to it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_REMOTE = ("nfs", "cifs", "smb", "fuse", "9p", "virtiofs", "vboxsf", "prl_fs")


def needs_polling(folder: Path, *, mounts: str | None = None) -> bool:
    """Whether events of other machines do not reach this folder's file system."""
    return kind_of(folder, mounts=mounts).startswith(_REMOTE)


def kind_of(folder: Path, *, mounts: str | None = None) -> str:
    """Give the kind of file system that a folder lies on, such as ``nfs4``."""
    text = mounts if mounts is not None else Path("/proc/self/mounts").read_text()
    path = os.path.realpath(folder)
    best, kind = "", ""
    for line in text.splitlines():
        fields = line.split()
        point = fields[1].replace("\\040", " ")
        within = path == point or path.startswith(point.rstrip("/") + "/")
        if within and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def is_nfs(folder: Path) -> bool:
    """Whether a folder lies on NFS.

    Raises:
        OSError: it is not there.
    """
    return _is_on_no_disk(folder) and kind_of(folder).startswith("nfs")


def is_smb(folder: Path) -> bool:
    """Whether a folder lies on a share that the kernel has mounted by SMB.

    Raises:
        OSError: it is not there.
    """
    return _is_on_no_disk(folder) and kind_of(folder).startswith(("cifs", "smb"))


def _is_on_no_disk(folder: Path) -> bool:
    """Tell cheaply: only what lies on no disk here has a device number without a driver."""
    return os.major(os.stat(folder).st_dev) == 0


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder as the host knows it, wherever a container has it mounted."""

    device: str
    """``major:minor`` of its file system."""
    path: str
    """Below the root of that file system: on a machine with one disk, the path on the host."""


def place_of(folder: Path, *, mountinfo: str | None = None) -> Place:
    """Give the place that a folder of this mount namespace has on its own file system.

    Links are not followed, and no folder on the way need be readable.

    Raises:
        OSError: the kernel's list of mounts cannot be read.
    """
    text = mountinfo if mountinfo is not None else Path("/proc/self/mountinfo").read_text()
    path = os.path.abspath(folder)
    best, found = "", Place(device="", path=path)
    for line in text.splitlines():
        fields = line.split()  # proc(5): id, parent, device, root, mount point, …
        device, root, point = fields[2], _unescaped(fields[3]), _unescaped(fields[4])
        rest = os.path.relpath(path, point)
        if rest.split("/", 1)[0] == ".." or len(point) < len(best):
            continue
        best, found = point, Place(device=device, path=os.path.normpath(f"{root}/{rest}"))
    return found


def _unescaped(text: str) -> str:
    """Undo the kernel's escapes of blanks and backslashes."""
    for code in ("040", "011", "012", "134"):
        text = text.replace(f"\\{code}", chr(int(code, 8)))
    return text
