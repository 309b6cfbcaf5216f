"""Doctor: is the clock kept right, and did it ever run ahead?"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from runner.contract.layout import RUN_ID, Outputs
from runner.doctor.finding import Finding, Level

OLDEST = datetime(2026, 1, 1, tzinfo=UTC)
"""This program is younger: a clock before it was never set."""
_SLACK = timedelta(minutes=2)
_UNSYNCHRONISED = 0x0040  # STA_UNSYNC of <sys/timex.h>
_STATUS_AT = 40  # bytes: where struct timex holds its status on 64-bit Linux
_TIMEX_BYTES = 208
_WHY = "Run ids, records and schedules are made of the time of day."
_FIX = "sudo timedatectl set-ntp true && timedatectl"


@dataclass(frozen=True, kw_only=True)
class Clock:
    """What there is."""

    now: datetime
    synchronised: bool | None = None
    """Whether something keeps it right; None: the kernel did not say."""
    newest_run: datetime | None = None
    """When the newest run was claimed, by the clock of then."""


def read_clock(outputs: Outputs) -> Clock:
    """Ask the kernel, and the newest run's id."""
    names = outputs.run_names()
    newest = None
    if names and RUN_ID.fullmatch(names[-1][1]):
        newest = datetime.strptime(names[-1][1][:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return Clock(now=datetime.now(UTC), synchronised=_synchronised(), newest_run=newest)


def _synchronised() -> bool | None:
    """Read the kernel's own mark, which containers may read as well."""
    if ctypes.sizeof(ctypes.c_long) != 8 or not Path("/proc").is_dir():
        return None
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # all zero: nothing is to be changed
    try:
        state = ctypes.CDLL(None).adjtimex(buffer)
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    status = int.from_bytes(buffer.raw[_STATUS_AT : _STATUS_AT + 4], "little")
    return not status & _UNSYNCHRONISED


def judge_clock(facts: Clock) -> Finding:
    """Decide whether the time can be trusted; jobs run in any case."""
    shown = f"{facts.now:%Y-%m-%d %H:%M} UTC"
    if facts.now < OLDEST:
        return _finding(Level.ADVICE, f"The clock says {shown}: it was never set.", _FIX)
    if facts.newest_run is not None and facts.newest_run > facts.now + _SLACK:
        return _finding(
            Level.ADVICE,
            f"The clock says {shown}, before the newest run ({facts.newest_run:%Y-%m-%d %H:%M}): "
            "it is wrong now, or it was then.",
            _FIX,
        )
    if facts.synchronised is False:
        return _finding(Level.ADVICE, f"The clock says {shown}, and nothing keeps it right.", _FIX)
    return _finding(Level.OK, f"{shown}.")


def _finding(level: Level, what: str, fix: str = "") -> Finding:
    return Finding(check="Clock", level=level, what=what, why=_WHY, fix=fix)
