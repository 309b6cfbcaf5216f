"""Falls: the machine goes down each time a job starts; the job rests, longer each time.

It does not fail: a job may wake a weak power supply or a fault of the card, and another machine, or
this one after a repair, trains it. But the other jobs go first, and in between nothing else falls
with it: it runs alone.
"""

from __future__ import annotations

import time
from datetime import datetime

from runner.clock import now
from runner.contract.record import Falls

FALLS_BEFORE_REST = 3
"""Two may be chance: a power cut, and a restart of the runner. The third in a row without a step in
between looks like the job's doing."""
_FIRST_REST_SECONDS = 600.0
"""A card or supply that switched off for heat is cool again, and the other jobs had their turn."""
_LONGER_EACH_TIME = 4.0
_LONGEST_REST_SECONDS = 24 * 3600.0
"""One fall a day at most (reached after 10 min, 40 min, 2 h 40 min and 10 h 40 min): jobs of a day
get through, and a repair is noticed the day after without anybody asking for it."""
_LONGEST_AFTER = 8  # steps: no large power is computed from a number that somebody wrote


def after_fall(falls: Falls | None, *, at: datetime) -> Falls:
    """Count one more."""
    return Falls(times=1 + (falls.times if falls else 0), last_at=at)


def is_suspect(falls: Falls | None) -> bool:
    """Whether the machine went down so often under a run that the others go before it."""
    return falls is not None and falls.times >= FALLS_BEFORE_REST


def rest_seconds(falls: Falls | None) -> float:
    """Say how long a run rests after its newest fall."""
    if falls is None or not is_suspect(falls):
        return 0.0
    power = min(falls.times - FALLS_BEFORE_REST, _LONGEST_AFTER)
    return min(_FIRST_REST_SECONDS * _LONGER_EACH_TIME**power, _LONGEST_REST_SECONDS)


def rest_left_seconds(falls: Falls | None, *, at: datetime) -> float:
    """Say how much of its rest is left.

    Asked once, at the daemon's start: from then on a clock that does not jump counts. A clock that
    was put back, before that, makes it rest once more and no longer.
    """
    whole = rest_seconds(falls)
    gone = (at - falls.last_at).total_seconds() if falls else 0.0
    return max(0.0, whole - max(0.0, gone))


def rests_until(falls: Falls | None) -> float:
    """Give the monotonic time until which a run rests; 0: it does not."""
    left = rest_left_seconds(falls, at=now())
    return time.monotonic() + left if left else 0.0


def why_it_rests(falls: Falls) -> str:
    """Say why a run has to wait."""
    return (
        f"the machine or the runner went down {falls.times} times in a row while this job was at "
        "work, each time before it got any further; the other jobs go first"
    )


def what_to_check(falls: Falls) -> str:
    """Say what a person can find out about it."""
    return (
        f"the machine or the runner went down {falls.times} times in a row while it was at work. "
        "It is tried again by itself, less often each time. If the machine switches itself off "
        "under load, check its power supply and its cooling"
    )
