"""Hanging stages: one without progress logs its stacks and is then ended.

A training attempt shows that it lives by its metrics.jsonl: a line for each step, and a touch
between its passes. How long it may stand still is drawn from how long its own steps take. The other
stages have no steps; they are given a time that none of them takes.
"""

from __future__ import annotations

import itertools
import os
import statistics
from collections.abc import Sequence

from runner.contract.layout import StageFolder
from runner.contract.progress import step_times
from runner.contract.states import TRAINS, Stage
from runner.daemon.book import Live, Stillness
from runner.daemon.daemon import Daemon
from runner.daemon.stages.plans import stage_folder
from runner.words import duration

STEPS_LONG = 10.0
"""A step may take so many times as long as the longest lately."""
START_FACTOR = 6.0
"""Loading a large model from a slow disk and trying its worst batch take longer than a step."""
OTHER_STAGES_FACTOR = 36.0
JUMP_FACTOR = 100.0
"""No evaluation or checkpoint between two steps takes so many times as long as a step."""
CLOSE_LOOKS_SECONDS = 10.0
STACK_SECONDS = 2.0
"""From the question for its stack to the end of a child: time to write it."""


def patience_seconds(which: Stage, times: Sequence[float], *, floor_seconds: float) -> float:
    """Decide how long a child may show nothing; ``times`` are those of its latest steps' ends."""
    if which not in TRAINS:
        return OTHER_STAGES_FACTOR * floor_seconds
    if len(times) < 2:
        return START_FACTOR * floor_seconds
    gaps = [after - before for before, after in itertools.pairwise(times)]
    # A clock that was put forward looks like a step of hours: nothing would ever hang again.
    longest = min(max(gaps), JUMP_FACTOR * max(1.0, statistics.median(gaps)))
    return max(floor_seconds, STEPS_LONG * longest)


def watch_for_hangs(daemon: Daemon, at: float) -> None:
    """Ask every child that stands still for its stack, and then to leave."""
    for live in daemon.book.runs.values():
        if live.child is None or live.stage is None or live.child.is_stopping:
            continue
        if live.hung:
            if at >= live.asked_for_stack_at + STACK_SECONDS:
                live.child.ask_to_stop(at=at, grace_seconds=daemon.settings.hung_grace_seconds)
            continue
        still = _still_seconds(live, live.stage, at)
        floor = daemon.settings.stall_seconds
        if still < floor or still < _patience(live, live.stage, floor):
            continue
        live.hung, live.asked_for_stack_at = f"it showed no progress for {duration(still)}", at
        daemon.next_look = at + STACK_SECONDS
        daemon.say(
            live,
            f"{live.record.job}: {live.stage} hangs: {live.hung}; where is in {live.stage}.log",
            level="warning",
        )
        live.child.ask_for_stack()


def _folder(live: Live, which: Stage) -> StageFolder:
    return StageFolder(stage_folder(live.run, which, live.record))


def _patience(live: Live, which: Stage, floor: float) -> float:
    times = step_times(_folder(live, which).metrics) if which in TRAINS else []
    return patience_seconds(which, times, floor_seconds=floor)


def _still_seconds(live: Live, which: Stage, at: float) -> float:
    """Tell for how long the child has shown nothing, by the daemon's own clock.

    What changed is compared, not the file's time with the clock: on a share they may differ. And a
    container that was paused as a whole has not hung: only time between close looks counts.
    """
    try:
        metrics = os.stat(_folder(live, which).metrics).st_mtime_ns
    except OSError:
        metrics = 0
    shown = (live.child.pid if live.child else 0, metrics)
    seconds, before = 0.0, live.stillness
    if before is not None and before.shown == shown:
        seconds = before.seconds + min(at - before.looked_at, CLOSE_LOOKS_SECONDS)
    live.stillness = Stillness(shown=shown, seconds=seconds, looked_at=at)
    return seconds
