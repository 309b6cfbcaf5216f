"""The card's hours: read, and looked up by tables; 2026-11-26 is a Thursday."""

from __future__ import annotations

import pytest
from berlin import berlin, utc

from runner.contract.hours import is_open, opens_at, read_hours
from runner.contract.settings_table import SettingError, read_settings

__all__ = ["berlin"]  # a fixture is used by being there


@pytest.mark.parametrize(
    ("hours", "moment", "expected"),
    [
        ("", "2026-11-26T12:00", True),
        ("18:00-07:00, sat, sun", "2026-11-26T16:59", False),  # 17:59 in Berlin
        ("18:00-07:00, sat, sun", "2026-11-26T17:00", True),
        ("18:00-07:00, sat, sun", "2026-11-26T05:59", True),
        ("18:00-07:00, sat, sun", "2026-11-26T06:00", False),
        ("18:00-07:00, sat, sun", "2026-11-28T12:00", True),  # Saturday noon
        ("mon-fri 18:00-07:00", "2026-11-28T05:00", True),  # Friday's night
        ("mon-fri 18:00-07:00", "2026-11-28T20:00", False),
        ("fri-mon", "2026-11-29T12:00", True),
        ("fri-mon", "2026-11-26T12:00", False),
        ("00:00-24:00", "2026-11-26T12:00", True),
        # To the minute, within a day and over midnight.
        ("09:30-12:15", "2026-11-26T08:29", False),
        ("09:30-12:15", "2026-11-26T08:30", True),
        ("09:30-12:15", "2026-11-26T11:14", True),
        ("09:30-12:15", "2026-11-26T11:15", False),
        ("22:45-05:20", "2026-11-26T21:44", False),
        ("22:45-05:20", "2026-11-26T21:45", True),
        ("22:45-05:20", "2026-11-26T04:19", True),
        ("22:45-05:20", "2026-11-26T04:20", False),
        ("00:00-23:59", "2026-11-26T22:59", False),  # its last minute is not in it
        # Sunday's night reaches into Monday, and Monday's own evening is none of it.
        ("sun 22:00-04:00", "2026-11-30T02:59", True),
        ("sun 22:00-04:00", "2026-11-30T21:30", False),
        # Summer time: 22:00 in Berlin is 20:00 UTC in July; the clock goes back on 25 October.
        ("22:00-04:00", "2026-07-01T20:00", True),
        ("22:00-04:00", "2026-10-25T02:30", True),
        ("22:00-04:00", "2026-10-25T03:00", False),
    ],
)
def test_when_trainings_may_run(hours: str, moment: str, expected: object) -> None:
    """By the clock on the wall of the box."""
    assert is_open(read_hours(hours), utc(moment)) is expected


def test_when_the_hours_begin_next() -> None:
    """The next evening, or the weekend."""
    assert opens_at(read_hours("18:00-07:00"), utc("2026-11-26T12:00")) == utc("2026-11-26T17:00")
    assert opens_at(read_hours("18:30-07:00"), utc("2026-11-26T12:00")) == utc("2026-11-26T17:30")
    assert opens_at(read_hours("18:00-07:00"), utc("2026-11-26T17:00")) == utc("2026-11-27T17:00")
    assert opens_at(read_hours("sat"), utc("2026-11-29T12:00")) == utc("2026-12-04T23:00")
    assert opens_at(read_hours("sat,sun"), utc("2026-11-26T12:00")) == utc("2026-11-27T23:00")


@pytest.mark.parametrize(
    "bad", ["18-7", "18:00-18:00", "sa", "25:00-26:00", "18:00-07:60", ",", "x"]
)
def test_what_is_no_hours_is_refused_in_words(bad: str) -> None:
    """A slip would leave the card idle, or busy, all day."""
    with pytest.raises(SettingError) as caught:
        read_settings({"RUNNER_HOURS": bad})
    assert "RUNNER_HOURS" in caught.value.message
    assert "18:00-07:00, sat, sun" in caught.value.message
