"""Hours of the card: outside of them no training starts, and one that runs is interrupted.

Whoever sets hours needs the card at other times, so a training leaves a checkpoint when they end
and goes on from it when they begin again. What follows training takes minutes and is finished.
"""

from __future__ import annotations

from runner import clock
from runner.contract.hours import is_open, opens_at, read_hours
from runner.contract.states import TRAINS
from runner.daemon.book import Live
from runner.daemon.change_run import change, keep_waiting
from runner.daemon.daemon import Daemon
from runner.daemon.stages.retry import OUTSIDE_HOURS

_WAITS = "outside the card's hours"


def is_closed(daemon: Daemon) -> bool:
    """Whether no training may run now; whoever works a queue off by hand does not ask."""
    settings = daemon.settings
    return not settings.once and not is_open(read_hours(settings.hours), clock.now())


def waits_for_hours(daemon: Daemon, live: Live, at: float, *, closed: bool) -> bool:
    """Whether a run waits for the card's hours; it says so, and no more when they have begun."""
    known = live.record.waiting
    if not closed or live.next_stage not in TRAINS:
        if known is not None and known.reason.startswith(_WAITS):
            with daemon.isolating(live, at):
                change(daemon, live, waiting=None)
        return False
    hours = daemon.settings.hours
    with daemon.isolating(live, at):
        again_at = opens_at(read_hours(hours), clock.now())
        keep_waiting(daemon, live, f"{_WAITS} ({hours})", again_at=again_at)
    return True


def interrupt_outside_hours(daemon: Daemon, at: float) -> None:
    """Ask a training for a checkpoint when the hours have ended."""
    if not daemon.settings.hours or not is_closed(daemon):
        return
    for live in daemon.book.runs.values():
        if live.child is None or live.stage not in TRAINS or live.child.is_stopping:
            continue
        live.pause = OUTSIDE_HOURS
        daemon.say(live, f"{live.record.job}: paused, {OUTSIDE_HOURS}")
        live.child.ask_to_stop(at=at, grace_seconds=daemon.settings.grace_seconds)


def hours_line(daemon: Daemon) -> str:
    """Say for STATUS.txt whether trainings may run now; empty: at any time."""
    hours, speak = daemon.settings.hours, daemon.says.speak
    if not hours or daemon.settings.once:
        return ""
    if not is_closed(daemon):
        return speak("hours_open", hours=hours)
    begin = opens_at(read_hours(hours), clock.now())
    return speak("hours_closed", hours=hours, time=speak.time(begin))
