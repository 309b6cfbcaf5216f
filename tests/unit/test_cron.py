"""Cron lines and what is done at their times, by tables; times are written out by hand."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from berlin import berlin, utc

from runner.clock import BOX_ZONE
from runner.contract.schedules import Last, Outcome, Schedule
from runner.daemon.schedule.due import BEHIND_SECONDS, Action, decide, first_due
from runner.errors import SpecError
from runner.spec.cron import cron_problem, latest_time, next_time, next_times
from runner.spec.read_spec import read_spec

__all__ = ["berlin"]  # a fixture is used by being there


@pytest.mark.parametrize(
    ("line", "after", "expected"),
    [
        # Sunday 02:00 in winter is 01:00 UTC, in summer 00:00.
        ("0 2 * * sun", "2026-11-26T12:00", ["2026-11-29T01:00", "2026-12-06T01:00"]),
        ("0 2 * * 7", "2026-07-01T12:00", ["2026-07-05T00:00", "2026-07-12T00:00"]),
        # 02:30 does not exist on 29 March: it comes when the clock has jumped to 03:00.
        ("30 2 * * *", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:30"]),
        # On 25 October it exists twice and comes once.
        ("30 2 * * *", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
        # Asked within the second pass, the first one's time is not found again.
        ("30 2 * * *", "2026-10-25T01:10", ["2026-10-26T01:30", "2026-10-27T01:30"]),
        # Every hour is every hour, also the one that the clock repeats.
        ("0 * * * *", "2026-10-24T23:30", ["2026-10-25T00:00", "2026-10-25T01:00"]),
        ("@weekly", "2026-11-26T12:00", ["2026-11-28T23:00", "2026-12-05T23:00"]),
        ("0 0 L * *", "2027-02-01T12:00", ["2027-02-27T23:00", "2027-03-30T22:00"]),
        ("0 0 29 2 *", "2026-01-01T00:00", ["2028-02-28T23:00", "2032-02-28T23:00"]),
    ],
)
def test_times_are_the_zones_own(line: str, after: str, expected: list[str]) -> None:
    """By the calendar of Berlin, worked out by hand."""
    assert next_times(line, utc(after), 2) == [utc(text) for text in expected]


def test_the_zone_knows_its_changes() -> None:
    """A fixed offset would be wrong on one side of them."""
    winter = utc("2026-01-10T12:00").astimezone(BOX_ZONE)
    summer = utc("2026-07-10T12:00").astimezone(BOX_ZONE)
    assert (winter.hour, winter.tzname()) == (13, "CET")
    assert (summer.hour, summer.tzname()) == (14, "CEST")
    assert (summer + timedelta(days=180)).utcoffset() == timedelta(hours=1)


@pytest.mark.parametrize(
    ("line", "says", "hint"),
    [
        ("0 0 30 2 *", "never comes: there is no day 30 in month 2", "L for its last day"),
        ("0 0 31 4,6,9,11 *", "never comes", "a day that the month has"),
        ("61 2 * * *", "has a minute that is none: 61", "0 to 59"),
        ("0 24 * * *", "has an hour that is none: 24", "0 to 23"),
        ("0 0 5-3 * *", "has a day of the month that is none: 5-3", "1 to 31"),
        ("0 2 * * sunday", "has a day of the week that is none: sunday", "sun to sat"),
        ("0 2 * *", "has 4 parts instead of five", '"0 2 * * sun" is every Sunday at 02:00'),
        ("0 0 2 * * sun", "has 6 parts instead of five", "minute, hour"),
        ("weekly", "has one part instead of five", "minute, hour"),
        ("*/0 * * * *", "has a minute that is none", "*/2"),
        ("1," * 200, "too long", "five parts"),
    ],
)
def test_a_line_that_cannot_be_is_refused_with_how_to_fix_it(
    line: str, says: str, hint: str
) -> None:
    """A schedule that never fires would be found out by nobody."""
    problem = cron_problem(line)
    assert problem is not None
    assert says in problem[0]
    assert hint in problem[1]


def test_a_spec_with_such_a_line_is_refused_where_it_stands() -> None:
    """File, line, field, what was found and what to write."""
    with pytest.raises(SpecError) as caught:
        read_spec(b"model: m\ndata: d.jsonl\nschedule: 0 0 30 2 *\n", file_name="a.yaml")
    (problem,) = caught.value.problems
    assert (problem.line, problem.field, problem.found) == (3, "schedule", "0 0 30 2 *")
    with pytest.raises(SpecError, match="in quotes"):
        read_spec(b"model: m\ndata: d.jsonl\nschedule: * * * * *\n", file_name="a.yaml")
    with pytest.raises(SpecError, match="there is no schedule that it could be about"):
        read_spec(b"model: m\ndata: d.jsonl\nwhen_missed: skip\n", file_name="a.yaml")


def test_the_latest_time_is_found_backwards() -> None:
    """A year of missed minutes is not counted one by one."""
    began = time.perf_counter()
    until = utc("2026-10-25T01:10:30")
    assert latest_time("* * * * *", after=utc("2025-01-01"), until=until) == utc("2026-10-25T01:10")
    assert latest_time("0 2 * * sun", after=utc("2026-11-22T01:00"), until=until) is None
    assert time.perf_counter() - began < 0.2


SUNDAY = "0 2 * * sun"
DONE = utc("2026-11-22T01:00")
DUE = utc("2026-11-29T01:00")
RAN = Last(due=DONE, at=DONE, outcome=Outcome.STARTED, run_id="20261122T010000Z-abcd")


@pytest.mark.parametrize(
    ("now", "options", "action", "made_late"),
    [
        ("2026-11-29T00:59:59", {}, Action.WAIT, False),
        ("2026-11-29T01:00:03", {}, Action.START, False),
        ("2026-11-29T01:00:03", {"busy": True}, Action.SKIP_BUSY, False),
        # The box was off for two days: made up for, once, or not.
        ("2026-12-01T08:00:00", {}, Action.START, True),
        ("2026-12-01T08:00:00", {"makes_up": False}, Action.SKIP_MISSED, True),
        ("2026-11-29T01:05:00", {"makes_up": False}, Action.START, False),
        # The clock was set back by two hours just after the run: the time comes again, no run does.
        ("2026-11-21T23:30:00", {}, Action.WAIT, False),
        ("2026-11-22T01:00:10", {}, Action.WAIT, False),
        # To the second: at its time it is due, and ten minutes later it was not missed yet.
        ("2026-11-29T01:00:00", {}, Action.START, False),
        ("2026-11-29T01:10:00", {"makes_up": False}, Action.START, False),
        ("2026-11-29T01:10:01", {"makes_up": False}, Action.SKIP_MISSED, True),
        # 26 hours are a wrong zone: the schedule waits, however long the clock stays so.
        ("2026-11-21T23:30:00", {"behind_seconds": BEHIND_SECONDS}, Action.WAIT, False),
        ("2026-11-20T23:00:00", {"behind_seconds": BEHIND_SECONDS}, Action.WAIT, False),
        ("2026-11-20T22:59:59", {"behind_seconds": BEHIND_SECONDS}, Action.SET_BACK, False),
        # It is back by days: not believed at once, then counted anew.
        ("2026-11-10T00:00:00", {}, Action.WAIT, False),
        ("1970-01-01T00:00:00", {"behind_seconds": 60.0}, Action.WAIT, False),
        ("2026-11-10T00:00:00", {"behind_seconds": BEHIND_SECONDS}, Action.SET_BACK, False),
    ],
)
def test_what_is_done_at_a_moment(now, options, action, made_late) -> None:
    """Once, never twice, and never nothing without a reason."""
    known = Schedule(job="contracts", line=SUNDAY, done_until=DONE, last=RAN)
    given = {"busy": False, "makes_up": True, "behind_seconds": 0.0, **options}
    found = decide(known, now=utc(now), next_due=first_due(known), **given)
    assert (found.action, found.late) == (action, made_late)
    if action in (Action.START, Action.SKIP_BUSY, Action.SKIP_MISSED):
        assert found.due == DUE


def test_a_time_that_comes_again_after_the_clock_was_set_back_starts_nothing() -> None:
    """What was run at Sunday's time is not run at the same Sunday's time again."""
    known = Schedule(job="c", line=SUNDAY, done_until=utc("2026-11-20T00:00"), last=RAN)
    found = decide(
        known,
        now=utc("2026-11-22T01:00:05"),
        next_due=first_due(known),
        busy=False,
        makes_up=True,
        behind_seconds=0.0,
    )
    assert (found.action, found.due) == (Action.SKIP_AGAIN, DONE)


def test_of_many_missed_times_the_last_is_made_up_for() -> None:
    """A box that was off for a month owes one run, not thirty."""
    known = Schedule(job="c", line="0 2 * * *", done_until=utc("2026-10-30T00:00"))
    now = utc("2026-11-29T08:00")
    found = decide(
        known, now=now, next_due=first_due(known), busy=False, makes_up=True, behind_seconds=0.0
    )
    assert (found.action, found.due, found.late) == (Action.START, DUE, True)


def test_the_latest_time_is_known_to_the_second() -> None:
    """A time counts from its own second on, and one that is dealt with does not come again."""
    daily, at = "0 2 * * *", utc("2026-11-26T01:00")
    before, second = at - timedelta(days=1), timedelta(seconds=1)
    assert latest_time(daily, after=before, until=at) == at
    assert latest_time(daily, after=before, until=at + second) == at
    assert latest_time(daily, after=before - second, until=at - second) == before
    assert latest_time(daily, after=before, until=at - second) is None
    assert latest_time(daily, after=at, until=at) is None


def test_a_line_may_be_two_hundred_characters_long() -> None:
    """And no more: lists of minutes are as long as that."""
    line = "00" + ",0" * 95 + " 2 * * *"
    assert (len(line), cron_problem(line)) == (200, None)
    assert cron_problem(f" {line}") is not None


def test_of_many_missed_times_the_last_is_not_late_where_it_has_just_come() -> None:
    """Off for a month and switched on for Sunday's time: that one is no missed time."""
    known = Schedule(job="c", line="0 2 * * *", done_until=utc("2026-10-30T00:00"))
    now, given = DUE + timedelta(minutes=3), {"makes_up": False, "behind_seconds": 0.0}
    found = decide(known, now=now, next_due=first_due(known), busy=False, **given)
    assert (found.action, found.due, found.late) == (Action.START, DUE, False)
    later = decide(
        known, now=now + timedelta(hours=1), next_due=first_due(known), busy=True, **given
    )
    assert (later.action, later.late) == (Action.SKIP_BUSY, True)


@pytest.mark.parametrize(
    ("day", "line"),
    [("2026-03-29", "30 2 * * *"), ("2026-10-25", "30 2 * * *"), ("2026-12-31", "59 23 31 12 *")],
    ids=["spring", "autumn", "end of the year"],
)
def test_each_day_has_its_time_once_whenever_one_looks(day: str, line: str) -> None:
    """From each quarter of an hour, and back from it, the same times are found, each once.

    The reference is a walk over every minute of UTC, read on a wall clock.
    """
    minute, hour, *_ = line.split()
    begin = utc(f"{day}T12:00") - timedelta(days=2)
    wall = [
        (at, at.astimezone(ZoneInfo("Europe/Berlin")))
        for at in (begin + timedelta(minutes=n) for n in range(4 * 24 * 60))
    ]
    wanted: dict[object, datetime] = {}
    for (at, here), (_, before) in zip(wall[1:], wall, strict=False):
        is_month = line.endswith("* * *") or (here.month, here.day) == (12, 31)
        comes = (here.hour, here.minute) == (int(hour), int(minute))
        skipped = here.hour * 60 + here.minute - before.hour * 60 - before.minute == 61
        if is_month and (comes or (skipped and here.hour == int(hour) + 1)):
            wanted.setdefault(here.date(), at)  # of an hour that comes twice, the first
    times = sorted(wanted.values())
    assert len(times) >= (1 if "12" in line else 3)
    for at, _ in wall[::15]:
        coming = [one for one in times if one > at]
        if coming:
            assert next_time(line, at) == coming[0]
        past = [one for one in times if one <= at]
        assert latest_time(line, after=begin, until=at) == (past[-1] if past else None)
