"""Silence: how long no rank has shown life, and which of them is to blame.

Ranks wait for each other once a step, so one that stands still silences all others soon. Each
shows life as it begins to wait: whoever has not is the one that they wait for.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

SILENT_SECONDS = 600.0
"""The daemon waits as long by default (`stall_seconds`): a checkpoint may go to a slow share.
The daemon alone would only see that the stage stands still, and nothing would be saved."""
TIMES_LONGEST = 10.0
"""Nor so many times as long as the longest gap between signs so far, on a very slow one."""
CLOSE_LOOKS_SECONDS = 5.0
"""Of the time between two looks no more counts: all may have been paused, and nobody has hung."""


@dataclass
class Silence:
    """How long it has been quiet."""

    shown: tuple[int, ...] = ()
    looked_at: float = 0.0
    seconds: float = 0.0
    longest: float = 0.0
    """Gap between signs, in seconds."""

    def look(self, signs: Sequence[int], at: float, *, ended: Container[int] = ()) -> int | None:
        """Give the rank that hangs; None: none does, or not yet.

        Args:
            signs: when each rank last showed life, in nanoseconds; 0: it does not train yet.
            at: now, in seconds, by a clock that no one sets.
            ended: ranks that have left; one that is still there is to blame.
        """
        passed = min(at - self.looked_at, CLOSE_LOOKS_SECONDS)
        self.looked_at = at
        if tuple(signs) != self.shown:
            # Loading, before the first signs of all, takes as long as it takes: the daemon watches.
            if self.shown and all(self.shown):
                self.longest = max(self.longest, self.seconds)
            self.shown, self.seconds = tuple(signs), 0.0
            return None
        self.seconds += passed
        if not all(signs) or self.seconds < max(SILENT_SECONDS, TIMES_LONGEST * self.longest):
            return None
        there = [rank for rank in range(len(signs)) if rank not in ended]
        return min(there, key=lambda rank: signs[rank], default=None)
