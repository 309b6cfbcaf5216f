"""Judge a box: may something be placed on it, is it away, and which of its cards is best?

Pure decisions. A box lives while its counter moves, by this machine's clock alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.contract.cluster import BoxSaid


@dataclass(kw_only=True)
class Watched:
    """A box, and when its counter last moved."""

    said: BoxSaid
    since: float
    """Monotonic: since this daemon knows of it."""
    moved_at: float | None = None
    """Monotonic time at which its counter moved; None: it has not since then."""
    rests_until: float = 0.0
    """Monotonic time before which nothing is placed on it: it could not do what it was given."""
    rests_because: str = ""
    unread: str = ""
    """Why its file cannot be read; empty: it can."""

    def hear(self, said: BoxSaid, at: float) -> None:
        """Take what it says now."""
        if (said.agent, said.counter) != (self.said.agent, self.said.counter):
            self.moved_at = at
        self.said = said

    def away_seconds(self, at: float) -> float:
        """Give for how long it has not moved."""
        return at - (self.since if self.moved_at is None else self.moved_at)


@dataclass(frozen=True, kw_only=True)
class House:
    """What this box, the head, is like: others must be so, too."""

    version: str
    outputs_dir: str
    models_dir: str
    lease_seconds: float


def is_away(box: Watched, house: House, at: float) -> bool:
    """Whether a box has not moved for the length of a lease."""
    return box.away_seconds(at) > house.lease_seconds


def problem_of(box: Watched, house: House, at: float) -> str:
    """Say why nothing is placed on a box; empty: something may be.

    Args:
        box: as it was seen.
        house: the head.
        at: monotonic.
    """
    said = box.said
    if box.unread:
        return f"its file boxes/{said.box}.json cannot be read ({box.unread})"
    if is_away(box, house, at):
        return "it is not seen any more"
    if said.version != house.version:
        return f"it has version {said.version}, and this box has {house.version}"
    if said.outputs_dir != house.outputs_dir:
        return f"it has its outputs at {said.outputs_dir}, and this box at {house.outputs_dir}"
    if said.models_dir != house.models_dir:
        return f"it has its models at {said.models_dir}, and this box at {house.models_dir}"
    if box.moved_at is None:
        return "it has not been seen since this box started"
    if at < box.rests_until:
        return box.rests_because
    return ""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a free card says to a training."""

    place: int
    """Of the card in the list that was asked."""
    fits: bool | None
    """What the forecast says; None: it does not know."""
    seconds: float | None
    """How long the run would take there; None: not known."""
    free_since: float = 0.0
    """Monotonic time from which on the card has been free."""


def fastest(offers: Sequence[Offer], *, here: Sequence[Offer] = ()) -> Offer | None:
    """Choose the card of a further box on which a training starts; None: on none of them.

    Of cards that are equally good, it is the one that has been free longest: by their order, the
    last ones would hardly ever be chosen while the head is busy. A card of this box is as good as
    another one that is not known to be quicker.

    Args:
        offers: of free cards of further boxes.
        here: of free cards of this box, which would start it in this round.
    """

    def rank(offer: Offer) -> tuple[bool, float]:
        return offer.fits is None, offer.seconds if offer.seconds is not None else float("inf")

    fitting = [offer for offer in offers if offer.fits is not False]
    if not fitting:
        return None
    best = min(fitting, key=lambda offer: (*rank(offer), offer.free_since))
    at_home = [offer for offer in here if offer.fits is not False]
    if at_home and rank(min(at_home, key=rank)) <= rank(best):
        return None
    return best
