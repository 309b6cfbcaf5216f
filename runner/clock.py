"""Clock: what time it is, for people and for records; how long things took, whatever the time.

The time of day jumps: a machine's clock is wrong until the network tells it, or was set by hand.
So it is only shown. What is decided by how long something took is measured by a clock that does not
jump (``time.monotonic`` within a process; `uptime_seconds`, the same for all processes until the
machine starts anew).
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path


def now(*, not_before: datetime | None = None) -> datetime:
    """Give the current time, in UTC; never earlier than what it is the end of."""
    found = datetime.now(UTC)
    return found if not_before is None else max(found, not_before)


def uptime_seconds() -> float:
    """Give the seconds since the machine started, its sleep included."""
    try:
        return float(Path("/proc/uptime").read_text().split()[0])  # what the health check reads
    except OSError:
        return time.clock_gettime(time.CLOCK_BOOTTIME)


def this_boot() -> str:
    """Name the machine's present start: `uptime_seconds` of another one cannot be compared."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class BoxZone(tzinfo):
    """The box's own zone (TZ or /etc/localtime) with its summer time, as the C library knows it.

    ``datetime.astimezone()`` gives a fixed offset, by which nothing can be planned across a change.
    """

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        """Give how far ahead of UTC the zone is at a time of its own."""
        if moment is None:
            return None
        here = moment.replace(tzinfo=None)
        return here - datetime.fromtimestamp(here.timestamp(), UTC).replace(tzinfo=None)

    def dst(self, _moment: datetime | None) -> timedelta | None:
        """Give nothing: who asks needs `utcoffset` alone."""
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        """Give the zone's short name at a time of its own, such as CET."""
        return None if moment is None else moment.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, moment: datetime) -> datetime:
        """Bring a time in UTC, marked as the zone's own, to the zone."""
        here = datetime.fromtimestamp(moment.replace(tzinfo=UTC).timestamp())  # noqa: DTZ006 - its fold is wanted
        return here.replace(tzinfo=self)


BOX_ZONE = BoxZone()
"""The one that all compare with: two of them would be two zones."""
