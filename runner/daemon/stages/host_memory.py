"""Out of host memory: did the kernel kill a child for want of memory?

The count of our own cgroup (a container's, a service's) comes first; where there is none, the
machine's. Both rise for kills by a cgroup's limit and by a machine that is full. Neither tells
which process it was: where stages run side by side, none is blamed for more than is known.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path


def kernel_kills(root: Path = Path("/")) -> int | None:
    """Count the processes that the kernel has killed so far; None: it does not tell."""
    for path in _counters(root):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.strip().isdigit():
                return int(count)
    return None


def _counters(root: Path) -> Iterator[Path]:
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        groups = []
    mounted = root / "sys/fs/cgroup"
    for line in groups:
        _, controllers, path = line.split(":", 2)
        # A container sees its own cgroup at the top, whatever the path says.
        if not controllers:  # the one hierarchy of cgroup v2
            yield mounted / path.lstrip("/") / "memory.events"
            yield mounted / "memory.events"
        elif "memory" in controllers.split(","):
            yield mounted / "memory" / path.lstrip("/") / "memory.oom_control"
            yield mounted / "memory" / "memory.oom_control"
    yield root / "proc/vmstat"


class Blame(StrEnum):
    """Whether the kernel ended a child for want of memory."""

    NO = "no"
    YES = "yes"
    ONE_OF_SEVERAL = "one of several"
    """More stages ended so than it killed."""


def blame(status: int, *, before: int | None, after: int | None, also_killed: int = 0) -> Blame:
    """Decide whether a child's end was the kernel's doing, from the counts around its life.

    Args:
        status: how the child ended.
        before: the kernel's kills when it began, those that another stage was blamed for included.
        after: the kernel's kills now.
        also_killed: other stages that have been ended by SIGKILL and are not judged yet.
    """
    if status != -signal.SIGKILL or before is None or after is None or after <= before:
        return Blame.NO
    return Blame.YES if after - before > also_killed else Blame.ONE_OF_SEVERAL
