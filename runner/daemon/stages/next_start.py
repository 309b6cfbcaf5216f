"""Next start: which stage starts on which card now, and whether a run is prepared beside.

A pure decision. Each card works on one stage at a time; the order of the runs is the queue's
(queue.py), and start.py asks the cards in turn and acts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AtWork:
    """A stage that is at work."""

    place: int | None
    """Of its card; None: it prepares, which takes no card."""
    job: str = ""
    is_suspect: bool = False
    """The machine went down under it time and again: nothing is to go down with it."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a free card says to a run's next stage."""

    place: int
    problem: str | None = None
    """Why it cannot start there."""
    is_known: bool = True
    """False: the driver has not answered yet."""
    is_too_small: bool = False
    """It waits for a larger card of the box: meanwhile others may start on this one."""

    @property
    def is_good(self) -> bool:
        """Whether it can start there now."""
        return self.is_known and self.problem is None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What follows."""

    place: int | None = None
    """Of the card on which it starts; None: on none now."""
    waits: str | None = None
    """Why it waits; None, without a place: a driver is still to answer."""


def free_places(cards: int, at_work: Sequence[AtWork]) -> list[int]:
    """List the cards that a stage may be offered: none while one runs that must run alone."""
    if any(one.is_suspect and one.place is not None for one in at_work):
        return []
    taken = {one.place for one in at_work}
    return [place for place in range(cards) if place not in taken]


def must_wait_for_its_job(job: str, at_work: Sequence[AtWork]) -> bool:
    """Whether another run of a job is at work on a card: runs of one job go one after the other.

    Each is compared with the adapter in use, and may go on from it: two at once would both take the
    place of the same one, and the older of them might come last.
    """
    return any(one.place is not None and one.job == job for one in at_work)


def choose(offers: Sequence[Offer]) -> Choice:
    """Choose the first card that is good; where there is none, wait for an answer or say why.

    A driver that is slow about one card holds nothing back from another.
    """
    for offer in offers:
        if offer.is_good:
            return Choice(place=offer.place)
    if not offers or not all(offer.is_known for offer in offers):
        return Choice()
    return Choice(waits=offers[0].problem)


def is_for_larger_card(
    total_bytes: int, others: Sequence[int], *, fits: bool | None, cap_bytes: int | None
) -> bool:
    """Decide whether a run that does not fit on a card waits for a larger one.

    Args:
        total_bytes: the card's memory.
        others: that of the box's other cards; 0: not known.
        fits: what the forecast says; None: it does not know.
        cap_bytes: what the spec allows; None: all that there is.
    """
    if fits is not False or (cap_bytes is not None and cap_bytes <= total_bytes):
        return False
    return any(other > total_bytes for other in others)


def lets_others_go_first(offers: Sequence[Offer]) -> bool:
    """Decide whether a run that waits leaves the free cards to others: they are all too small."""
    return bool(offers) and all(offer.is_too_small for offer in offers)


def may_prepare(*, is_preparing: bool, prepared: int, free: int) -> bool:
    """Decide whether another run is prepared now: one at a time, and one ahead of the cards.

    Args:
        is_preparing: one is being prepared.
        prepared: runs that were ready to start in this round and do not wait for disk space.
        free: cards that were free in this round.
    """
    return not is_preparing and prepared <= free
