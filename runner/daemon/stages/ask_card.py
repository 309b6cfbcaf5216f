"""Ask a card: could a run's next stage start on it now? Its lease is taken where it could."""

from __future__ import annotations

from dataclasses import dataclass

from runner.contract.method_choice import MethodChoice
from runner.contract.states import TRAINS
from runner.daemon.ask_aside import NotYet
from runner.daemon.book import Live
from runner.daemon.cards import Card
from runner.daemon.daemon import Daemon
from runner.daemon.gpu_watch import WHENEVER
from runner.daemon.stages.choose_plan import Ahead, look_ahead
from runner.daemon.stages.look_at_card import Seen, look_at_card, method_of
from runner.daemon.stages.next_start import Offer, is_for_larger_card
from runner.daemon.stages.plans import ON_CARD
from runner.errors import BusyError
from runner.files.lock import Lock
from runner.forecast.work import GIB

TOO_SMALL = "it needs more memory than the card that is free has: it waits for a larger one"


@dataclass(kw_only=True)
class Asked:
    """A card, and what it says."""

    card: Card
    seen: Seen
    lease: Lock | None = None
    """Held for the child, which inherits it."""
    ahead: Ahead | None = None
    """What an attempt would need there."""
    chosen: MethodChoice | None = None
    """The method, where the box has just chosen it."""
    problem: str | None = None
    is_known: bool = True
    is_too_small: bool = False
    """A larger card of the box is waited for."""

    def offer(self, place: int) -> Offer:
        """Give what the decision needs of it."""
        return Offer(
            place=place,
            problem=self.problem,
            is_known=self.is_known,
            is_too_small=self.is_too_small,
        )

    def release(self) -> None:
        """Let go of the lease; a child that has inherited it holds it as long as it lives."""
        if self.lease is not None:
            self.lease.release()


def ask_card(daemon: Daemon, live: Live, card: Card, at: float) -> Asked:
    """Ask; what the driver has not answered yet is asked for, and known in a later round."""
    which = live.next_stage
    try:
        seen = look_at_card(card, which, at)
    except NotYet:
        return Asked(card=card, seen=Seen(), is_known=False)
    asked = Asked(card=card, seen=seen, problem=seen.problem)
    if asked.problem is None and which in ON_CARD:
        try:
            what = card.title if daemon.cards.are_several else "the GPU"
            asked.lease = Lock.take(card.lease, what=what, holder=f"run {live.record.run_id}")
        except BusyError as error:
            asked.problem = error.message
    try:
        if asked.problem is None and which in TRAINS:
            asked.chosen = method_of(daemon, live, card, seen)
            spec = live.spec.with_method(asked.chosen.method) if asked.chosen else live.spec
            asked.ahead = look_ahead(daemon.settings, live.run, live.record, spec, seen.memory)
            asked.problem = asked.ahead.waits
            if asked.problem is None and _waits_for_larger(daemon, live, asked, at):
                # What was forecast and chosen for this one says nothing about the run.
                asked.ahead = asked.chosen = None
                asked.problem, asked.is_too_small = TOO_SMALL, True
    except BaseException:
        asked.release()
        raise
    return asked


def _waits_for_larger(daemon: Daemon, live: Live, asked: Asked, at: float) -> bool:
    """Whether a run does not fit here, and another card of the box has more memory.

    A larger one that is lost is waited for as well, but by who works a queue off by hand: what the
    run has trained there would end for want of memory here.

    Raises:
        StillAsking: the driver has not told of another card's memory yet.
    """
    memory, ahead, card = asked.seen.memory, asked.ahead, asked.card
    if memory is None or ahead is None:
        return False
    card.total_bytes = memory.total_bytes
    fits, cap = ahead.facts.get("fits"), live.spec.limits.gpu_memory_gib
    if fits is not False:
        return False
    more = [
        _total_bytes(other, at)
        for other in daemon.cards.all
        if other is not card and not (other.problem and daemon.settings.once)
    ]
    return is_for_larger_card(
        memory.total_bytes, more, fits=fits, cap_bytes=int(cap * GIB) if cap else None
    )


def _total_bytes(card: Card, at: float) -> int:
    """Tell how large a card is, asked for once; 0: it is not known."""
    if not card.total_bytes and not card.problem:
        memory = card.watch.memory_at(at, since=WHENEVER)
        card.total_bytes = memory.total_bytes if memory else 0
    return card.total_bytes
