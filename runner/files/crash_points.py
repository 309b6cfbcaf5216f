"""Names the places where a test may end the process, to prove that nothing is lost there.

Inert: nothing in production calls `install`, and no setting, variable or file leads to it. A test
starts the daemon or a stage through a command of its own, which installs what happens at a point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

Point = Literal[
    # any file that appears whole or not at all
    "file written",
    "file renamed",
    # the claim
    "spec moved",
    "run folder made",
    "claim recorded",
    "refusal written",
    # a schedule
    "schedule noted",
    "scheduled copy written",
    # promotion
    "promotion noted",
    "current moved",
    # the stages, in the daemon
    "stage planned",
    "stage recorded",
    "stage started",
    "stage ended",
    "attempts closed",
    # the inbox
    "answer written",
    "spec shown",
    # prepare
    "data copied",
    # train
    "checkpoint begun",
    "checkpoint synced",
    "checkpoint named",
    "checkpoint doomed",
    # what an attempt has sealed, in the daemon
    "checkpoint adopted",
    # a run that changes to 4 bits
    "checkpoints dropped",
    # export
    "adapter begun",
    "adapter synced",
    "adapter set aside",
    "adapter named",
    # what is handed over: merged weights, GGUF files
    "form begun",
    "form synced",
    "form set aside",
    "form named",
    # large files of old runs, in the daemon
    "rows cleared",
    "files taken away",
    "files deleted",
]
POINTS: frozenset[str] = frozenset(get_args(Point))

_visit: Callable[[Point, str], None] | None = None


def reached(point: Point, what: str = "") -> None:
    """Say that a point is reached; ``what`` is the file or the folder, where one point has many."""
    if _visit is not None:
        _visit(point, what)


def install(visit: Callable[[Point, str], None] | None) -> None:
    """Let a test see, and end, this process at every point."""
    global _visit  # noqa: PLW0603  (one process, one test)
    _visit = visit
