"""Hours of the card: when trainings may run, as RUNNER_HOURS says: ``18:00-07:00, sat, sun``.

Each part is a time of day, days of the week, or both (``mon-fri 18:00-07:00``); trainings run while
any part fits. Times are the box's own (TZ).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from runner.clock import BOX_ZONE

ALLOWED = (
    "times and days, such as 18:00-07:00, sat, sun or mon-fri 19:30-06:00 (days are mon tue wed "
    "thu fri sat sun)"
)
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_PART = re.compile(
    r"(?:(?P<first>[a-z]{3})(?:-(?P<last>[a-z]{3}))?)?\s*"
    r"(?:(?P<begin>\d{1,2}:\d{2})\s*-\s*(?P<end>\d{1,2}:\d{2}))?"
)
_DAY = 24 * 60  # minutes


@dataclass(frozen=True, kw_only=True)
class Span:
    """One part: days, and from when to when; an end before its begin lies on the next day."""

    days: frozenset[int]
    """0 is Monday."""
    begin: int
    """Minutes after midnight."""
    end: int

    def holds(self, day: int, minute: int) -> bool:
        """Whether a minute of a day of the week lies in it."""
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        evening = day in self.days and minute >= self.begin
        return evening or ((day - 1) % 7 in self.days and minute < self.end)


def read_hours(text: str) -> tuple[Span, ...]:
    """Read the setting; nothing: at any time.

    Raises:
        ValueError: a part cannot be read.
    """
    return tuple(_span(part.strip().lower()) for part in text.split(",")) if text.strip() else ()


def _span(part: str) -> Span:
    found = _PART.fullmatch(part)
    if found is None or not part:
        raise ValueError(part)
    days = frozenset(range(7))
    if found["first"]:
        first = _DAYS.index(found["first"])
        last = _DAYS.index(found["last"] or found["first"])
        days = frozenset((first + n) % 7 for n in range((last - first) % 7 + 1))
    if not found["begin"]:
        return Span(days=days, begin=0, end=_DAY)
    begin, end = _minute(found["begin"]), _minute(found["end"])
    if begin in (end, _DAY):
        raise ValueError(part)
    return Span(days=days, begin=begin, end=end)


def _minute(text: str) -> int:
    hour, minute = (int(part) for part in text.split(":"))
    if minute > 59 or hour * 60 + minute > _DAY:
        raise ValueError(text)
    return hour * 60 + minute


def is_open(spans: Sequence[Span], moment: datetime) -> bool:
    """Whether trainings may run at a moment."""
    here = moment.astimezone(BOX_ZONE)
    minute = here.hour * 60 + here.minute
    return not spans or any(span.holds(here.weekday(), minute) for span in spans)


def opens_at(spans: Sequence[Span], moment: datetime) -> datetime:
    """Give when the hours begin next after a moment that lies outside of them."""
    here = moment.astimezone(BOX_ZONE)
    begins = []
    for ahead in range(8):
        date = here.date() + timedelta(days=ahead)
        for span in spans:
            if date.weekday() in span.days:
                begin = time(span.begin // 60, span.begin % 60, tzinfo=BOX_ZONE)
                begins.append(datetime.combine(date, begin).astimezone(UTC))
    return min(begin for begin in begins if begin > moment)
