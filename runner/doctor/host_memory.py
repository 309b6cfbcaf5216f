"""Doctor: the machine's memory, and how much of it this container may take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.doctor.finding import Finding, Level
from runner.words import GIB, memory

ADVISED_BYTES = 32 * GIB
_ALMOST = 0.9  # a machine sold with 32 GiB shows less: firmware and kernel keep some of it
NEEDED_BYTES = 2 * GIB  # libraries, a small model and its rows; a start below that is killed
_WHY = "Weights and rows pass through it on their way to the card; a stage that runs out is killed."


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


def judge_host_memory(facts: HostMemory) -> Finding:
    """Decide whether it is enough."""
    usable = facts.limit_bytes or facts.total_bytes
    whole = f"{memory(usable)} of memory"
    if facts.limit_bytes:
        whole += f" for this container ({memory(facts.total_bytes)} in the machine)"
    if min(usable, facts.available_bytes) < NEEDED_BYTES:
        return Finding(
            check="Host memory",
            level=Level.TROUBLE,
            what=f"Only {memory(min(usable, facts.available_bytes))} are free of {whole}.",
            why=_WHY,
            fix="ps aux --sort=-rss | head    # who holds it",
        )
    if usable < _ALMOST * ADVISED_BYTES:
        return Finding(
            check="Host memory",
            level=Level.ADVICE,
            what=f"{whole}; {ADVISED_BYTES // GIB} GiB are advised.",
            why=_WHY + " Small models do with less.",
            fix="docker stats --no-stream    # raise its LIMIT where it was set"
            if facts.limit_bytes
            else "free -h    # add memory, or choose a smaller model",
        )
    return Finding(check="Host memory", level=Level.OK, what=f"{whole}.", why=_WHY)
