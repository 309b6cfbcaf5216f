"""Schedules: what is known of each spec in jobs/scheduled/, and up to when its times are done.

`outputs/.runner/schedules.json` is written by the daemon alone, before it starts anything: a time
that stands in it is never started again, whatever ends the daemon in between.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, ValidationError

from runner.contract.layout import Outputs
from runner.contract.record import Time
from runner.files.durable import write_json
from runner.files.plain import read_plain

_BYTES = 8 * 1024 * 1024  # a thousand schedules are half a megabyte


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Outcome(StrEnum):
    """What was done at a time of a schedule."""

    STARTED = "started"
    LATE = "late"
    """It was started, later than it should have been: the box was off, or its clock was wrong."""
    BUSY = "busy"
    """Nothing: a run of the job was still under way."""
    SAME_DATA = "same_data"
    """Nothing: the data was what it was at the last run that succeeded."""
    MISSED = "missed"
    """Nothing: the box was off, and the spec does not want it to be made up for."""
    AGAIN = "again"
    """Nothing: the clock was set back and came by the same time once more."""


class Last(_Part):
    """The newest time of a schedule that was dealt with."""

    due: Time
    """When the schedule wanted it."""
    at: Time
    """When it was dealt with."""
    outcome: Outcome
    run_id: str | None = None
    """The run that it started; else the one that was the reason why it started none."""


class Starting(_Part):
    """A run that is being started: it gets this id, however often it is tried."""

    run_id: str
    due: Time
    late: bool = False


class Schedule(_Part):
    """One spec in jobs/scheduled/."""

    job: str
    line: str
    """Its cron line, five parts."""
    done_until: Time
    """Times up to this one are dealt with, or were before the schedule was there."""
    last: Last | None = None
    last_run_id: str | None = None
    """The newest run that it started."""
    starting: Starting | None = None
    problem: str | None = None
    """Why it is paused; None: it is not."""

    def but(self, **changes: object) -> Schedule:
        """Give the same with some fields changed."""
        return self.model_copy(update=changes)


def read_schedules(outputs: Outputs) -> dict[str, Schedule]:
    """Read them by file name; what cannot be read is left out.

    Raises:
        OSError: there is something that cannot be read.
    """
    try:
        content = json.loads(read_plain(outputs.schedules, limit_bytes=_BYTES))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    found = {}
    for name, fields in content.items() if isinstance(content, dict) else ():
        try:
            found[str(name)] = Schedule.model_validate(fields)
        except ValidationError:
            continue
    return found


def write_schedules(outputs: Outputs, schedules: Mapping[str, Schedule]) -> None:
    """Replace the file durably."""
    content = {name: schedules[name].model_dump(mode="json") for name in sorted(schedules)}
    write_json(outputs.schedules, content)
