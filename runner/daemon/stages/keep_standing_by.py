"""Keep processes standing by: one for each card's next stage, and some for the next runs' rows.

On a box with a card alone: without one a start is a small part of a run, and the imports would take
their time from the stage that is at work. They stand by on an idle box as well: what is dropped
there is trained sooner. They give way to a stage for which the machine's memory did not
suffice, and outside the card's hours to whoever wants the box then.
"""

from __future__ import annotations

import os

from runner.contract import stage_environment
from runner.contract.states import Stage
from runner.daemon.daemon import Daemon
from runner.daemon.schedule.hours import is_closed
from runner.daemon.stages.begin import must_spare_memory
from runner.daemon.stages.next_start import preparers
from runner.daemon.stages.stand_by import Seat


def keep_standing_by(daemon: Daemon, at: float) -> None:
    """Have a process stand by for each card, and some more where cards would wait for rows."""
    asked, cards, give_way = daemon.settings.stand_by, daemon.cards, _give_way(daemon)
    are_wanted = [
        not give_way and (card.guard.is_well if asked is None else asked) for card in cards.all
    ]
    for card, is_wanted in zip(cards.all, are_wanted, strict=True):
        _keep(daemon, card.seat, at, is_wanted=is_wanted, card=card.uuid)
    wanted = _preparers(daemon) if any(are_wanted) else 0
    taken_first = sorted(cards.preparers, key=lambda seat: seat.process is None)
    for place, seat in enumerate(taken_first):
        _keep(daemon, seat, at, is_wanted=place < wanted, card=stage_environment.NO_CARD)


def _give_way(daemon: Daemon) -> bool:
    return is_closed(daemon) or any(
        live.child is not None
        and live.stage is not None
        and must_spare_memory(live.record, live.stage)
        for live in daemon.book.runs.values()
    )


def _preparers(daemon: Daemon) -> int:
    lives = [live for live in daemon.book.runs.values() if not live.record.state.is_final]
    at_work = [(live.stage, live.cards) for live in lives if live.child]
    taken = {card for which, on in at_work if which is not Stage.PREPARE for card in on}
    waiting = [live.next_stage for live in lives if not live.child]
    return preparers(
        free=sum(card not in taken and not card.problem for card in daemon.cards.all),
        preparing=sum(which is Stage.PREPARE for which, _ in at_work),
        prepared=sum(which is not Stage.PREPARE for which in waiting),
    )


def _keep(daemon: Daemon, seat: Seat, at: float, *, is_wanted: bool, card: str | None) -> None:
    home = daemon.settings.stage_home.resolve()
    environment = stage_environment.environment(os.environ, home=home, card=card)
    seat.keep(daemon.settings.stage_command, environment, at=at, is_wanted=is_wanted)


def end_standing_by(daemon: Daemon) -> None:
    """End the processes that stand by."""
    for seat in (*daemon.cards.preparers, *(card.seat for card in daemon.cards.all)):
        seat.end()
