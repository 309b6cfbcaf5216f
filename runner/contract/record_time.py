"""Times of records: UTC, ISO 8601 with milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, PlainSerializer


def _in_utc(time: datetime) -> datetime:
    """Bring a time to UTC; one without a zone is taken for that."""
    if time.tzinfo is None:
        return time.replace(tzinfo=UTC)
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time before the year 1 or after the year 9999") from None


Time = Annotated[
    datetime,
    AfterValidator(_in_utc),
    PlainSerializer(
        lambda t: t.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        when_used="json",
    ),
]
"""UTC, ISO 8601 with milliseconds."""
