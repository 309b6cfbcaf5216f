"""Ask a card: could a run's next stage start on it now? Its lease is taken where it could."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.card.memory import GpuMemory
from runner.card.wait_for_memory import why_wait
from runner.contract.fp8_cards import fp8_obstacle
from runner.contract.method_choice import MethodChoice
from runner.contract.states import TRAINS
from runner.daemon.ask_aside import NotYet
from runner.daemon.book import Live
from runner.daemon.cards import Card
from runner.daemon.daemon import Daemon
from runner.daemon.gpu_watch import WHENEVER, StillAsking
from runner.daemon.stages.choose_plan import Ahead, look_ahead
from runner.daemon.stages.look_at_card import Seen, look_at_card, method_of
from runner.daemon.stages.next_start import Offer, is_for_larger_card
from runner.daemon.stages.plans import ON_CARD
from runner.errors import BusyError
from runner.files.lock import Lock
from runner.forecast.ranks import ALONE, Ranks
from runner.forecast.work import GIB

TOO_SMALL = "it needs more memory than the card that is free has: it waits for a larger one"
NO_FP8 = "the card that is free cannot compute in fp8: it waits for one that can"
ONLY_LOST = "the card that is free takes no job: it waits until another one is free"


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
    """Another card of the box is waited for, which has what this one lacks."""

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


def ask_card(
    daemon: Daemon, live: Live, card: Card, at: float, *, is_one_of_several: bool = False
) -> Asked:
    """Ask; what the driver has not answered yet is asked for, and known in a later round.

    What a training needs is forecast here, but for one on several cards: `plan_together` does it.
    """
    which = live.next_stage
    try:
        seen = look_at_card(card, which, at)
    except NotYet:
        return Asked(card=card, seen=Seen(), is_known=False)
    asked = Asked(card=card, seen=seen, problem=seen.problem)
    if asked.problem is None and which in ON_CARD:
        try:
            what = card.title if daemon.cards.are_several else "the GPU"
            asked.lease = card.take_lease(f"run {live.record.run_id}", what=what)
        except BusyError as error:
            asked.problem = error.message
    if is_one_of_several:
        return asked
    try:
        if asked.problem is None and which in TRAINS:
            asked.chosen = method_of(daemon, live, card, seen)
            spec = live.spec.with_method(asked.chosen.method) if asked.chosen else live.spec
            asked.ahead = look_ahead(daemon.settings, live.run, live.record, spec, seen.memory)
            asked.problem = asked.ahead.waits
        if asked.problem is None and (why := waits_for_other(daemon, live, asked, at)):
            # What was forecast and chosen for this one says nothing about the run.
            asked.ahead = asked.chosen = None
            asked.problem, asked.is_too_small = why, True
    except BaseException:
        asked.release()
        raise
    return asked


@dataclass(frozen=True, kw_only=True)
class Together:
    """The cards on which a stage starts."""

    asked: tuple[Asked, ...]
    """In the driver's order."""
    planned: Asked
    """The smallest of them: by its memory the plan is made."""
    ranks: Ranks = ALONE

    @property
    def cards(self) -> tuple[Card, ...]:
        """Of all that were asked."""
        return tuple(one.card for one in self.asked)


def only_lost(asked: Sequence[Asked], cards: Sequence[Card]) -> bool:
    """Whether all cards that were asked are lost, and one of the box works that was not.

    A run waits for that one then. What is to be done about the lost one (often a reboot, which
    would end the others' work) is said to whoever cares for the box, once, in STATUS.txt.
    """
    were_asked = [one.card for one in asked]
    lost = bool(were_asked) and all(card.problem for card in were_asked)
    return lost and any(not card.problem for card in cards)


def plan_together(daemon: Daemon, live: Live, group: Sequence[Asked], ranks: Ranks) -> Together:
    """Plan a training on several cards that are free: one plan, which the smallest holds.

    Raises:
        StillAsking: the driver has not told yet by what a stage finds a card.
    """
    if not all(one.card.uuid for one in group):
        raise StillAsking
    ordered = sorted(group, key=lambda one: daemon.cards.all.index(one.card))
    sizes = [one.seen.memory.total_bytes if one.seen.memory else 0 for one in ordered]
    smallest = ordered[sizes.index(min(sizes))]
    smallest.chosen = method_of(daemon, live, smallest.card, smallest.seen, ranks)
    spec = live.spec.with_method(smallest.chosen.method) if smallest.chosen else live.spec
    ahead = look_ahead(daemon.settings, live.run, live.record, spec, smallest.seen.memory, ranks)
    smallest.ahead, smallest.problem = ahead, ahead.waits
    needed = int(ahead.facts.get("gpu_memory_bytes", 0))
    for one in ordered:
        if smallest.problem is None and one.seen.memory is not None:
            smallest.problem = why_wait(one.seen.memory, needed)
    return Together(asked=tuple(ordered), planned=smallest, ranks=ranks)


def waits_for_other(daemon: Daemon, live: Live, asked: Asked, at: float) -> str | None:
    """Say why a stage waits for another card of the box, which has what it needs; None: it goes.

    A card that is lost is waited for as well, but by who works a queue off by hand: what a run has
    trained there would end for want of memory here.

    Raises:
        StillAsking: the driver has not told of a card yet.
    """
    if not daemon.cards.are_several or live.next_stage not in ON_CARD:
        return None
    asked.card.described = asked.seen.memory or asked.card.described
    mine = describe(asked.card, at)
    if mine is None:
        return None
    known = [
        describe(other, at)
        for other in daemon.cards.all
        if other is not asked.card and not (other.problem and daemon.settings.once)
    ]
    others = [one for one in known if one is not None]
    wants_fp8 = live.next_stage in TRAINS and live.spec.speed == "fp8"
    if wants_fp8 and not has_fp8(mine) and any(has_fp8(other) for other in others):
        return NO_FP8
    cap = live.spec.limits.gpu_memory_gib
    waits = is_for_larger_card(
        mine.total_bytes,
        [other.total_bytes for other in others],
        fits=_fits(live, asked, mine),
        cap_bytes=int(cap * GIB) if cap else None,
    )
    return TOO_SMALL if waits else None


def _fits(live: Live, asked: Asked, card: GpuMemory) -> bool | None:
    """Tell whether a stage fits on a card; what follows a training takes no more than that did."""
    if asked.ahead is not None:
        return asked.ahead.facts.get("fits")
    needed = live.record.forecast.get("gpu_memory_bytes")
    return needed <= card.total_bytes if isinstance(needed, int) else None


def has_fp8(card: GpuMemory) -> bool:
    """Whether a card computes in fp8."""
    return fp8_obstacle(card.name, card.capability) is None


def describe(card: Card, at: float) -> GpuMemory | None:
    """Tell what a card is, asked for once; None: it is not known.

    Raises:
        StillAsking: the driver has not answered yet.
    """
    if card.described is None and not card.problem:
        card.described = card.watch.memory_at(at, since=WHENEVER)
    return card.described


def best_first(daemon: Daemon, live: Live, at: float) -> list[Card]:
    """List the cards in the order in which a run is prepared for them: for the most able first.

    Rows that are too long for a card are left out, and a smaller one is not what it waits for.

    Raises:
        StillAsking: the driver has not told of a card yet.
    """
    cards = daemon.cards.well_first()
    if not daemon.cards.are_several:
        return cards

    def rank(card: Card) -> tuple[bool, bool, int]:
        known = describe(card, at)
        if known is None:
            return bool(card.problem), False, 0
        lacks = live.spec.speed == "fp8" and not has_fp8(known)
        return bool(card.problem), lacks, -known.total_bytes

    return sorted(cards, key=rank)
