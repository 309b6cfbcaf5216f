"""Clock: what time it is, for people and for records."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """Give the current time, in UTC."""
    return datetime.now(UTC)
