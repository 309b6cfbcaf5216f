"""How long an attempt worked, whatever the time of day says: ``limits.hours`` is counted by it."""

from __future__ import annotations

import itertools
import os
import statistics
from datetime import datetime
from pathlib import Path

from runner.clock import this_boot, uptime_seconds
from runner.contract.layout import StageFolder
from runner.contract.progress import step_times
from runner.daemon.stages.process import PID_FILE

START_SECONDS = 3600.0
"""Loading a large model from a slow disk and trying its worst batch end within this, or the attempt
is ended as one that hangs (`hang.START_FACTOR` times `stall_seconds`)."""
_STEPS_LONG = 2.0
"""Evaluations and checkpoints lie between steps as well."""


def worked_seconds(folder: Path, *, began: datetime, ended: datetime, steps: int) -> float:
    """Say how long an attempt worked that nobody saw end.

    The times of day may lie hours or years apart where a clock was set in between. So they count
    as far as something else bears them out: the machine's uptime, or else the attempt's own steps.
    """
    by_day = max(0.0, (ended - began).total_seconds())
    return min(by_day, _at_most(folder, steps))


def _at_most(folder: Path, steps: int) -> float:
    uptime = uptime_at_start(folder)
    if uptime is not None:
        return max(0.0, uptime_seconds() - uptime)
    times = step_times(StageFolder(folder).metrics)
    gaps = [after - before for before, after in itertools.pairwise(times) if after > before]
    each = statistics.median(gaps) if gaps else 0.0
    return START_SECONDS + _STEPS_LONG * each * max(steps, len(times))


def uptime_at_start(folder: Path) -> float | None:
    """Tell at which uptime a stage began; None: that was before the machine last started."""
    try:
        _pid, ticks, boot = (folder / PID_FILE).read_text().split()
        return int(ticks) / os.sysconf("SC_CLK_TCK") if boot == this_boot() else None
    except (OSError, ValueError):
        return None
