"""Due: whether a notice is sent now, later, or not any more. A pure decision."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from runner.notices.notice import Notice, is_old

FIRST_SECONDS = 30.0
"""After a first failure it is tried again so much later, then after twice as long, and so on."""
LONGEST_SECONDS = 3600.0
PATIENCE_SECONDS = 3 * 24 * 3600.0
"""So long after what it tells of a notice is tried: a weekend without a mail server."""


class Do(StrEnum):
    """What to do with a notice for one place."""

    SEND = "send"
    WAIT = "wait"
    NOTHING = "nothing"
    """It was sent, does not go there, or is too old."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What was tried for one notice and one place since this process began."""

    times: int = 0
    again_at: float = 0.0
    """By a clock that does not jump."""

    def failed(self, at: float) -> Tried:
        """Note one more failure."""
        wait = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(self.times, 20))
        return Tried(times=self.times + 1, again_at=at + wait)


def decide(
    notice: Notice,
    *,
    tags: frozenset[str],
    is_sent: bool,
    tried: Tried,
    at: float,
    clock: datetime,
) -> Do:
    """Decide about one notice and one place.

    Args:
        notice: what is to be told.
        tags: the kinds that the place is for; empty: all.
        is_sent: the mark says that it was sent there.
        tried: what was tried.
        at: now, by the clock of ``tried``.
        clock: now, as people have it.
    """
    if is_sent or (tags and notice.kind.value not in tags):
        return Do.NOTHING
    if is_old(notice.happened_at, clock, seconds=PATIENCE_SECONDS):
        return Do.NOTHING
    return Do.SEND if at >= tried.again_at else Do.WAIT
