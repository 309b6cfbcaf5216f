"""Doctor: which disks outputs/ and models/ lie on, and what is free there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from runner.doctor.finding import Finding, Level
from runner.words import GIB, memory

ADVISED_FREE_BYTES = 20 * GIB
_WHY = "Weights are read from it at every start of a stage, and checkpoints wait for it to write."
_NETWORK = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "virtiofs", "ceph", "gluster", "fuse.gluster")


class Kind(StrEnum):
    """What a folder lies on."""

    NVME = "NVMe"
    SSD = "SSD"
    HARD_DISK = "hard disk"
    NETWORK = "network share"
    MEMORY = "memory (tmpfs)"
    VIRTUAL = "virtual disk"
    UNKNOWN = "disk of an unknown kind"


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The disk under some of the box's folders."""

    folders: tuple[str, ...]
    """Names of the folders that lie on it."""
    path: Path
    kind: Kind
    free_bytes: int
    needed_bytes: int = GIB
    """With less the daemon starts no stage."""


def read_disks(folders: Iterable[Path], *, needed_bytes: int, root: Path = Path("/")) -> list[Disk]:
    """Find the disk under each folder that is there; folders on the same one are told together."""
    found: dict[int, Disk] = {}
    for folder in folders:
        try:
            device = os.stat(folder).st_dev
            space = os.statvfs(folder)
        except OSError:
            continue  # a folder that is missing is another check's
        names = (*(found[device].folders if device in found else ()), folder.name)
        found[device] = Disk(
            folders=names,
            path=found[device].path if device in found else folder,
            kind=read_kind(folder, root=root),
            free_bytes=space.f_bavail * space.f_frsize,
            needed_bytes=needed_bytes,
        )
    return list(found.values())


def read_kind(folder: Path, *, root: Path = Path("/")) -> Kind:
    """Ask the kernel what a folder lies on, through partitions, volumes and RAID."""
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    entry = _mount_of(number, folder, (root / "proc/self/mountinfo").read_text())
    if entry is not None:
        file_system, source = entry
        if file_system.startswith(_NETWORK):
            return Kind.NETWORK
        if file_system in ("tmpfs", "ramfs"):
            return Kind.MEMORY
        if os.major(device) == 0 and source.startswith("/dev/"):  # btrfs and others hide the device
            try:
                node = os.stat(root / source.lstrip("/")).st_rdev
            except OSError:
                return Kind.UNKNOWN  # a container has the mount, not the node
            number = f"{os.major(node)}:{os.minor(node)}"
    return _slowest(_kinds((root / "sys/dev/block" / number).resolve()))


def _mount_of(number: str, folder: Path, mountinfo: str) -> tuple[str, str] | None:
    """Give the type and the source of the mount that a folder lies in."""
    path, best, found = os.path.realpath(folder), "", None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, (file_system, source, *_) = before.split(), after.split()
        point = fields[4].replace("\\040", " ")
        within = path == point or path.startswith(point.rstrip("/") + "/")
        if within and fields[2] == number and len(point) >= len(best):
            best, found = point, (file_system, source)
    return found


def _kinds(device: Path) -> list[Kind]:
    parts = sorted((device / "slaves").glob("*"))  # device mapper (LVM, encryption) and RAID
    if parts:
        return [kind for part in parts for kind in _kinds(part.resolve())]
    if (device / "partition").exists():
        return _kinds(device.parent)
    if device.name.startswith("nvme"):
        return [Kind.NVME]
    if device.name.startswith(("vd", "xvd")):
        return [Kind.VIRTUAL]  # what the host says about speed is what it was told to say
    try:
        rotates = (device / "queue/rotational").read_text().strip() == "1"
    except OSError:
        return [Kind.UNKNOWN]
    return [Kind.HARD_DISK if rotates else Kind.SSD]


def _slowest(kinds: list[Kind]) -> Kind:
    order = [Kind.HARD_DISK, Kind.UNKNOWN, Kind.VIRTUAL, Kind.SSD, Kind.NVME]
    return min(kinds, key=order.index, default=Kind.UNKNOWN)


def judge_disk(facts: Disk) -> Finding:
    """Decide whether it is fast and empty enough."""
    where = ", ".join(f"{name}/" for name in facts.folders)
    what = f"{where} on {facts.kind.value}, {memory(facts.free_bytes)} free"
    if facts.free_bytes < facts.needed_bytes:
        return _finding(
            Level.TROUBLE,
            f"{what}; nothing starts with less than {memory(facts.needed_bytes)}.",
            f"du -xh --max-depth=3 {facts.path} | sort -h | tail    # what takes the space",
        )
    if facts.kind in (Kind.HARD_DISK, Kind.NETWORK, Kind.MEMORY):
        return _finding(
            Level.ADVICE,
            f"{what}; a local NVMe disk is advised.",
            f"df -h {facts.path}    # then move it: BOX_DIR in .env names the folder",
        )
    if facts.free_bytes < ADVISED_FREE_BYTES:
        return _finding(
            Level.ADVICE,
            f"{what}; {memory(ADVISED_FREE_BYTES)} or more are advised.",
            f"du -xh --max-depth=3 {facts.path} | sort -h | tail    # what takes the space",
        )
    return _finding(Level.OK, f"{what}.")


def _finding(level: Level, what: str, fix: str = "") -> Finding:
    return Finding(check="Disk", level=level, what=what, why=_WHY, fix=fix)
