"""Absence: what it means that a run's spec is no longer where it was. Deleted, or out of sight?"""

from __future__ import annotations

from enum import Enum

SCANS_APART_SECONDS = 1.0  # an absence must hold in two scans at least so far apart
ALL_AT_ONCE_SECONDS = 10.0
"""Where the specs of several runs go at once and none is left, somebody may have moved the folder,
and a server may be about to say so: that is looked at for longer before anything is cancelled."""


class Absence(Enum):
    """What the daemon makes of it."""

    OUT_OF_SIGHT = "out of sight"
    """A state folder cannot be looked into: nothing is concluded."""
    PUT_BACK = "put back"
    """The folder it lay in is gone or is another one: its spec is written again."""
    WAIT = "wait"
    """It may have been deleted; the next scan tells."""
    DELETED = "deleted"
    """A person deleted it: the run is cancelled."""


def meaning(
    *, any_unseen: bool, folder_replaced: bool, all_at_once: bool, seconds: float | None
) -> Absence:
    """Decide what an absence means.

    Args:
        any_unseen: some state folder could not be looked into.
        folder_replaced: the folder in which the spec was last seen is not there any more.
        all_at_once: the specs of several runs are absent, and none of any run is seen.
        seconds: for how long it has been absent; None: it was not before this scan.
    """
    if any_unseen:
        return Absence.OUT_OF_SIGHT
    if folder_replaced:
        return Absence.PUT_BACK
    wait = ALL_AT_ONCE_SECONDS if all_at_once else SCANS_APART_SECONDS
    return Absence.DELETED if seconds is not None and seconds >= wait else Absence.WAIT
