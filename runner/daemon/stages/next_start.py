"""Next start: which stage starts on which card now, and whether a run is prepared beside.

A pure decision. Each card works on one stage at a time; the order of the runs is the queue's
(queue.py), and start.py asks the cards in turn and acts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AtWork:
    """A stage that is at work."""

    places: tuple[int, ...] = ()
    """Of its cards in this box; none: it prepares, which takes no card, or is elsewhere."""
    is_elsewhere: bool = False
    """A further box trains it."""
    job: str = ""
    is_suspect: bool = False
    """The machine went down under it time and again: nothing is to go down with it."""

    @property
    def prepares(self) -> bool:
        """Whether it takes no card."""
        return not self.places and not self.is_elsewhere


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

    places: tuple[int, ...] = ()
    """Of the cards on which it starts; none: on none now."""
    waits: str | None = None
    """Why it waits; None, without a place: a driver is still to answer."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What came of a run's turn."""

    was_had: bool
    """Something was begun, or the run waits for its card: nobody goes before it."""
    held: tuple[int, ...] = ()
    """Free cards that a run which waits for several keeps from other trainings, by their places;
    what follows a training still starts there: it ends soon."""


HAD, PASSED = Turn(was_had=True), Turn(was_had=False)


def free_places(cards: int, at_work: Sequence[AtWork]) -> list[int]:
    """List the cards that a stage may be offered: none while one runs that must run alone."""
    if any(one.is_suspect and one.places for one in at_work):
        return []
    taken = {place for one in at_work for place in one.places}
    return [place for place in range(cards) if place not in taken]


def must_wait_for_its_job(
    job: str, at_work: Sequence[AtWork], *, trained: Collection[str] = ()
) -> bool:
    """Whether another run of a job is at work on a card: runs of one job go one after the other.

    Each is compared with the adapter in use, and may go on from it: two at once would both take the
    place of the same one, and the older of them might come last.

    Args:
        job: the run's.
        at_work: what is at work.
        trained: jobs of which another run has been trained, and its export or evaluation is still
            to start.
    """
    return job in trained or any(
        (one.places or one.is_elsewhere) and one.job == job for one in at_work
    )


def choose(offers: Sequence[Offer], *, wanted: int = 1) -> Choice:
    """Choose the first cards that are good; where too few are, wait for an answer or say why.

    A driver that is slow about one card holds nothing back from another. All or none: a run that
    held one of two cards while it waits could wait for one that holds the other.
    """
    good = [offer.place for offer in offers if offer.is_good]
    if len(good) >= wanted:
        return Choice(places=tuple(good[:wanted]))
    if not offers and wanted > 1:
        return Choice(waits=together(wanted))
    if not offers or not all(offer.is_known for offer in offers):
        return Choice()
    problems = (offer.problem for offer in offers if offer.problem is not None)
    return Choice(waits=next(problems, together(wanted)))


def together(wanted: int) -> str:
    """Say that a run waits for other jobs to end."""
    return f"it trains on {wanted} cards at once and waits until so many are free"


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


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A card that works, and whether one of a run's ranks fits there."""

    place: int
    name: str
    total_bytes: int
    fits: bool | None = None
    """What the forecast says; None: it does not know."""


def cards_for(wanted: int, kinds: Sequence[Kind]) -> list[Kind]:
    """List the cards on which a run's ranks may train, of all that work, busy ones as well.

    Those that it fits; where these are too few, the largest: then the card has the last word.
    """
    fitting = [kind for kind in kinds if kind.fits is not False]
    if len(fitting) >= wanted:
        return fitting
    largest = sorted(kinds, key=lambda kind: -kind.total_bytes)
    return sorted(largest[:wanted], key=lambda kind: kind.place)


def equal_first(wanted: int, free: Sequence[Kind]) -> list[int]:
    """List the places of free cards in the order in which they are asked.

    Cards that are equal come first where they are enough: the slowest of several sets the pace, and
    the smallest the plan. Then the largest.
    """

    def rank(kind: Kind) -> tuple[bool, int, str, int]:
        alike = [one.total_bytes for one in free if one.name == kind.name]
        return len(alike) < wanted, -max(alike), kind.name, kind.place

    return [kind.place for kind in sorted(free, key=rank)]


def turn_of_who_waits(offers: Sequence[Offer], *, wanted: int = 1) -> Turn:
    """Decide which of the free cards a run that waits leaves to others.

    Those that are all too small for it; and all but those that it can use, where it needs several.
    """
    if wanted > 1:
        return Turn(was_had=False, held=tuple(offer.place for offer in offers))
    return PASSED if offers and all(offer.is_too_small for offer in offers) else HAD


MOST_PREPARED = 2
"""Runs that are prepared at once, for cards that have nothing to do: each uses all cores."""


def may_prepare(*, preparing: int, prepared: int, free: int) -> bool:
    """Decide whether another run is prepared now: one ahead of the cards.

    Args:
        preparing: runs that are being prepared.
        prepared: runs that were ready to start in this round and do not wait for disk space.
        free: cards that were free in this round and not lost, those of further boxes among them.
    """
    at_once = max(1, min(free, MOST_PREPARED))
    return preparing < at_once and preparing + prepared <= free


def may_go_before(ahead: Sequence[bool], *, free: int, are_alike: bool) -> bool:
    """Decide whether a run trains before those whose turn is sooner, but who are being prepared.

    Args:
        ahead: of each of these, whether it asks for no more than one card.
        free: cards that are free.
        are_alike: any of the box's cards does for any of its runs.
    """
    return not ahead or (are_alike and all(ahead) and len(ahead) < free)


def preparers(*, free: int, preparing: int, prepared: int) -> int:
    """Decide how many processes stand by to prepare runs: for cards that would wait for rows.

    Args:
        free: cards that are not lost and on which no stage is at work.
        preparing: runs that are being prepared.
        prepared: runs that wait for a card.
    """
    return max(0, min(free - prepared, MOST_PREPARED) - preparing)
