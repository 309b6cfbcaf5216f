"""Ask a card: could a run's next stage start on it now? Its lease is taken where it could."""

from __future__ import annotations

from dataclasses import dataclass

from runner.contract.method_choice import MethodChoice
from runner.contract.states import TRAINS
from runner.daemon.ask_aside import NotYet
from runner.daemon.book import Live
from runner.daemon.cards import Card
from runner.daemon.daemon import Daemon
from runner.daemon.stages.choose_plan import Ahead, look_ahead
from runner.daemon.stages.look_at_card import Seen, look_at_card, method_of
from runner.daemon.stages.next_start import Offer
from runner.daemon.stages.plans import ON_CARD
from runner.errors import BusyError
from runner.files.lock import Lock


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

    def offer(self, place: int) -> Offer:
        """Give what the decision needs of it."""
        return Offer(place=place, problem=self.problem, is_known=self.is_known)

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
    except BaseException:
        asked.release()
        raise
    return asked
