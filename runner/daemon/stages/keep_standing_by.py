"""Keep one standing by: a card's next stage has its process while another stage is at work there.

On a box with a card alone: without one a start is a small part of a run, and the imports would take
their time from the stage that is at work.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from runner.contract import stage_environment
from runner.contract.states import Stage
from runner.daemon.cards import Card
from runner.daemon.daemon import Daemon
from runner.daemon.stages.stand_by import StandBy
from runner.words import GIB

_LEAVES_BYTES = 4 * GIB
"""Free memory of the machine below which none is started: imported, it holds 0.6 GiB, and loading a
model wants all that there is for a while."""
_AGAIN_SECONDS = 600.0  # after one that ended by itself: what is broken is not tried each second


_SELDOM_FOLLOWED = (Stage.EVALUATE, Stage.HAND_OVER)
"""Few jobs ask for forms to hand over; one that does waits some seconds for its imports."""


def has_use(stages: Sequence[tuple[Stage, bool]]) -> bool:
    """Decide whether another stage follows what is at work.

    Args:
        stages: of each run that the process could be used for, its stage and whether that is at
            work.
    """
    at_work = [stage for stage, is_at_work in stages if is_at_work]
    followed = any(stage not in _SELDOM_FOLLOWED for stage in at_work)
    return bool(at_work) and (followed or len(stages) > len(at_work))


def keep_one_standing_by(daemon: Daemon, at: float) -> None:
    """Have a process stand by for each card while a stage is at work on it, and none otherwise."""
    runs = daemon.book.runs.values()
    for card in daemon.cards.all:
        stages = [
            (live.stage or live.next_stage if live.child else live.next_stage, bool(live.child))
            for live in runs
            if not live.record.state.is_final and (live.child is None or card in live.cards)
        ]
        _keep_one(daemon, card, stages, at)


def _keep_one(daemon: Daemon, card: Card, stages: Sequence[tuple[Stage, bool]], at: float) -> None:
    wanted = daemon.settings.stand_by
    if wanted is None:
        wanted = card.guard.is_well
    if card.stand_by is not None and not card.stand_by.is_there:
        card.no_stand_by_until = at + _AGAIN_SECONDS
        _end(card)
    if not (wanted and stages):
        _end(card)
    elif (
        card.stand_by is None
        and at >= card.no_stand_by_until
        and has_use(stages)
        and _free_bytes() >= _LEAVES_BYTES
    ):
        with contextlib.suppress(OSError):  # the stage itself will be started without
            home = daemon.settings.stage_home.resolve()
            environment = stage_environment.environment(os.environ, home=home, card=card.uuid)
            card.stand_by = StandBy(daemon.settings.stage_command, environment)


def end_standing_by(daemon: Daemon) -> None:
    """End the processes that stand by."""
    for card in daemon.cards.all:
        _end(card)


def _end(card: Card) -> None:
    if card.stand_by is not None:
        card.stand_by.end()
        card.stand_by = None


def _free_bytes() -> int:
    """Read how much memory the machine has to give, in bytes; 0: it does not tell."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0
