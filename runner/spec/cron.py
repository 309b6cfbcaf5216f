"""Cron lines: when a schedule such as ``0 2 * * sun`` comes next, and why one never does.

Times are the box's own (TZ). Where summer time takes an hour away, what would fall into it comes
when the hour is over; where an hour comes twice, a time in it counts once, as in Debian's cron.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from cronsim import CronSim, CronSimError

from runner.clock import BOX_ZONE

LONGEST_LINE = 200  # characters: lists of minutes are long, nothing else is
_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_PARTS = (
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day-of-month", "1 to 31, or L for the last"),
    ("month", "1 to 12, or jan to dec"),
    ("day-of-week", "0 to 7, or sun to sat"),
)
_ALLOWED = (
    "five parts: minute, hour, day of the month, month, day of the week; "
    '"0 2 * * sun" is every Sunday at 02:00'
)


def plain(line: str) -> str:
    """Give a line's five parts with single spaces; ``@weekly`` and its like as what they mean."""
    text = " ".join(line.split())
    return _NICKNAMES.get(text.lower(), text)


def cron_problem(line: str) -> tuple[str, str] | None:
    """Say what is wrong with a cron line and how to fix it; None: it comes again and again."""
    if len(line) > LONGEST_LINE:
        return "is too long for a schedule", f"write {_ALLOWED}"
    parts = plain(line).split()
    if len(parts) != len(_PARTS):
        what = "one part" if len(parts) == 1 else f"{len(parts)} parts"
        return f"has {what} instead of five", f"write {_ALLOWED}"
    try:
        next(_times(line, datetime(2000, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        return _which_part(str(error), parts)
    except StopIteration:
        return _never(parts)
    return None


def _which_part(said: str, parts: list[str]) -> tuple[str, str]:
    for number, (name, values) in enumerate(_PARTS):
        if name not in said:
            continue
        words = name.replace("-of-", " of the ")
        if name == "day-of-month" and _is_day(parts[number]):
            return _never(parts)
        return (
            f"has {'an' if words == 'hour' else 'a'} {words} that is none: {parts[number]}",
            f"the {words} is {values}; * is each, 1-5 a range, 1,15 a list, */2 every second",
        )
    return "is no schedule", f"write {_ALLOWED}"


def _is_day(text: str) -> bool:
    """Whether there is such a day in some month: then it is the month that lacks it."""
    try:
        CronSim(f"0 0 {text} * *", datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError:
        return False
    return True


def _never(parts: list[str]) -> tuple[str, str]:
    return (
        f"never comes: there is no day {parts[2]} in month {parts[3]}",
        "give a day that the month has, or L for its last day",
    )


def _times(line: str, after: datetime, *, back: bool = False) -> Iterator[datetime]:
    return iter(CronSim(plain(line), after.astimezone(BOX_ZONE), reverse=back))


def next_time(line: str, after: datetime) -> datetime:
    """Give the first time of a line that is later than ``after``, in UTC."""
    for found in _times(line, after):
        moment = found.astimezone(UTC)
        # Within an hour that comes twice, a time of the first pass may be found from the second.
        if moment > after:
            return moment
    raise ValueError(f"{line!r} never comes")


def latest_time(line: str, *, after: datetime, until: datetime) -> datetime | None:
    """Give the last time of a line that is later than ``after`` and not later than ``until``."""
    # In the second pass of an hour that comes twice, the wall clock stands before times that came
    # in the first: the search begins after that hour.
    second_pass = bool(until.astimezone(BOX_ZONE).fold)
    begin = until + timedelta(hours=second_pass, seconds=1)
    for found in _times(line, begin, back=True):
        moment = found.astimezone(UTC)
        if moment <= until:
            return moment if moment > after else None
    return None


def next_times(line: str, after: datetime, count: int) -> list[datetime]:
    """Give the next few times of a line."""
    found: list[datetime] = []
    while len(found) < count:
        found.append(next_time(line, found[-1] if found else after))
    return found
