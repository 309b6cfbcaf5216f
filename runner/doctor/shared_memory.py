"""Doctor: the size of /dev/shm."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from runner.doctor.finding import Finding, Level
from runner.words import GIB, memory

ADVISED_BYTES = GIB
_WHY = "Processes of one stage hand each other rows through it; Docker gives 64 MiB by default."


@dataclass(frozen=True, kw_only=True)
class SharedMemory:
    """What there is."""

    size_bytes: int | None
    """None: there is no /dev/shm."""
    writable: bool = True
    in_container: bool = False


def read_shared_memory(*, in_container: bool, folder: Path = Path("/dev/shm")) -> SharedMemory:  # noqa: S108  it is looked at, nothing is put there
    """Ask the file system."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return SharedMemory(size_bytes=None, in_container=in_container)
    return SharedMemory(
        size_bytes=found.f_blocks * found.f_frsize,
        writable=os.access(folder, os.W_OK | os.X_OK),
        in_container=in_container,
    )


def judge_shared_memory(facts: SharedMemory) -> Finding:
    """Decide whether it is enough; the stages as they are do without, so it is never trouble."""
    if facts.size_bytes is not None and facts.writable and facts.size_bytes >= ADVISED_BYTES:
        return Finding(
            check="Shared memory",
            level=Level.OK,
            what=f"{memory(facts.size_bytes)} in /dev/shm.",
            why=_WHY,
        )
    if facts.size_bytes is None:
        what = "There is no /dev/shm."
    elif not facts.writable:
        what = "/dev/shm cannot be written to."  # noqa: S108
    else:
        size = facts.size_bytes / 1024**2
        what = f"{size:.0f} MiB in /dev/shm; {memory(ADVISED_BYTES)} or more are advised."
    fix = "sudo mount -o remount,size=2g,mode=1777 /dev/shm"
    if facts.in_container:
        fix = "echo SHM_SIZE=2gb >> .env && docker compose up -d"
    return Finding(check="Shared memory", level=Level.ADVICE, what=what, why=_WHY, fix=fix)
