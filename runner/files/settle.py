"""Settle: is somebody still writing this file?

Only this machine's monotonic clock is used: the clock of a share may be wrong by minutes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look at a file saw."""

    size_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Look:
        """Keep what tells that a file changed."""
        return cls(size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A file's present look, and since when it has looked so."""

    look: Look
    since: float
    """Monotonic seconds."""

    def unchanged_seconds(self, at: float) -> float:
        """How long the file has looked as it does now."""
        return at - self.since


def look_again(before: Seen | None, look: Look, at: float) -> Seen:
    """Bring what is known about a file up to date; any change starts its time anew."""
    if before is not None and before.look == look:
        return before
    return Seen(look=look, since=at)


def is_settled(seen: Seen, *, at: float, settle_seconds: float) -> bool:
    """Whether the file has been unchanged for long enough. An empty file never is."""
    return seen.look.size_bytes > 0 and seen.unchanged_seconds(at) >= settle_seconds
