"""Host memory: what the machine has, and how much of it this container may take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class HostMemory:
    """What there is."""

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None = None
    """What this container (control group) may take; None: all."""


def read_host_memory(root: Path = Path("/")) -> HostMemory:
    """Read /proc/meminfo and the control group's limit, version 2 or 1."""
    sizes = {}
    for line in (root / "proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * 1024
    limits = []
    for path in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int((root / path).read_text()))
        except (OSError, ValueError):
            continue  # the other version, or "max"
    limit = min(limits, default=None)
    total = sizes["MemTotal"]
    return HostMemory(
        total_bytes=total,
        available_bytes=sizes["MemAvailable"],
        limit_bytes=limit if limit is not None and limit < total else None,
    )
