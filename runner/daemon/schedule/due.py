"""Due: what is to be done at a time of a schedule, decided from the clock and what is known.

The box's clock jumps: it is wrong until the network tells it, and people set it. A time that was
dealt with is never dealt with again, and one that was jumped over counts as missed. A clock that
was far ahead and is right again would leave a schedule silent until it is overtaken; so what is
known is set back with it, once the clock has stayed behind for a while.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from runner.contract.schedules import Schedule
from runner.spec.cron import latest_time, next_time

LATE = timedelta(minutes=10)
"""Later than this, a time was missed: a round takes seconds, and a start of the box minutes."""
SET_BACK = timedelta(hours=26)
"""A clock that is further behind than this was far ahead before: a wrong zone is 26 hours at most
(UTC-12 to UTC+14), and the schedule just waits until its times come again."""
BEHIND_SECONDS = 900.0
"""For so long a clock must have stayed behind: one that starts in 1970 is set within minutes."""


class Action(StrEnum):
    """What to do."""

    WAIT = "wait"
    START = "start"
    SKIP_BUSY = "busy"
    SKIP_MISSED = "missed"
    SKIP_AGAIN = "again"
    SET_BACK = "set back"
    """Count from now on: the clock was far ahead."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do at a moment."""

    action: Action
    due: datetime | None = None
    """The time that it is about: of several that have passed, the last."""
    late: bool = False


def decide(
    known: Schedule,
    *,
    now: datetime,
    next_due: datetime,
    busy: bool,
    makes_up: bool,
    behind_seconds: float,
) -> Decision:
    """Decide about one schedule.

    Args:
        known: what is known of it.
        now: the time of day.
        next_due: its first time after those that are dealt with.
        busy: a run of its job is queued or under way.
        makes_up: a missed time is made up for.
        behind_seconds: for how long, by a clock that does not jump, the time of day has been far
            behind what was dealt with.
    """
    if now + SET_BACK < known.done_until:
        if behind_seconds < BEHIND_SECONDS:
            return Decision(action=Action.WAIT)
        return Decision(action=Action.SET_BACK)
    if next_due > now:
        return Decision(action=Action.WAIT)
    due = latest_time(known.line, after=known.done_until, until=now) or next_due
    if known.last is not None and due == known.last.due:  # the clock came by it a second time
        return Decision(action=Action.SKIP_AGAIN, due=due)
    late = now - due > LATE
    if busy:
        return Decision(action=Action.SKIP_BUSY, due=due, late=late)
    if late and not makes_up:
        return Decision(action=Action.SKIP_MISSED, due=due, late=True)
    return Decision(action=Action.START, due=due, late=late)


def first_due(known: Schedule) -> datetime:
    """Give a schedule's first time after those that are dealt with."""
    return next_time(known.line, known.done_until)
