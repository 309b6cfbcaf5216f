"""One exit status and one result for a stage of several ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.exit_codes import ExitCode

ORDER = (
    ExitCode.OUT_OF_GPU_MEMORY,  # known: a smaller plan helps
    ExitCode.GPU_LOST,
    ExitCode.OUT_OF_HOST_MEMORY,
    ExitCode.DISK_FULL,
    ExitCode.UNREADABLE,
    ExitCode.BAD_INPUT,
    ExitCode.DIVERGED,
)
"""What explains most comes first. Behind these come signals and defects, and last a rank that was
interrupted: where nobody asked, it left because it had lost another one."""


def blamed(ends: Mapping[int, int], *, asked: bool) -> int:
    """Choose the rank whose end is the stage's.

    Args:
        ends: exit status by rank, of those that ended by themselves; a signal is negative.
        asked: the stage was asked to stop.

    Returns:
        The first one where that ended well, whatever became of the others: it writes what the run
        keeps, after the last step that all have finished. A driver may fail as a process leaves.
    """
    if ends.get(0) == ExitCode.OK:
        return 0
    last = len(ORDER)

    def weight(rank: int) -> tuple[float, int]:
        code = ends[rank]
        if code in ORDER:
            return ORDER.index(ExitCode(code)), rank
        if code == ExitCode.INTERRUPTED:
            return (0.5 if asked else last + 2), rank  # 0.5: only a lack of memory says more
        if code == ExitCode.OK:
            return last + 3, rank
        return (last if code < 0 else last + 1), rank

    return min(ends, key=weight)


def one_result(
    first: dict[str, Any] | None, of_blamed: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Say in one result how the stage ended, where it was not the first rank that failed.

    Args:
        first: result of the first rank, which saved what there was to save; None: it left none.
        of_blamed: what the failed rank left; None: nothing, since a signal ended it.

    Returns:
        What to write; None: nothing is known, as when a signal ends a stage of one rank.
    """
    whole = first if first is not None and "outcome" in first else None
    if of_blamed is None:
        return whole and {**whole, "outcome": "failed", "error": None}
    if whole is None or "outcome" not in of_blamed:
        return of_blamed
    names = ("outcome", "batch_plan", "next_batch_plan", "error")
    return {**whole, **{name: of_blamed[name] for name in names}}
