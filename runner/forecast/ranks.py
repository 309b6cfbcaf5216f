"""Ranks: on how many cards a job trains, and whether they share its base; a pure decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from runner.forecast.work import Box, Work

SHARES_BASE = True
"""Training knows how several cards share a base that none of them has the room for."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """How many processes train, one a card."""

    count: int = 1
    shard_base: bool = False
    """They share the base: none has the room for all of it."""

    def of(self, box: Box) -> Box:
        """Give what is known of a card, as one of so many."""
        return replace(box, ranks=self.count, shard_base=self.shard_base)


ALONE = Ranks()


def may_share(work: Work, box: Box) -> bool:
    """Whether the base can be shared: the fast path alone gathers layers, those in 4 bits."""
    return SHARES_BASE and work.fast and work.method == "qlora" and box.bf16


def choose_ranks(
    wanted: int | Literal["auto"],
    *,
    most: int,
    may_share: bool,
    fits: Callable[[Ranks], bool | None],
) -> Ranks | None:
    """Choose how many cards a job trains on; None: `auto`, and so few do not hold it.

    A card's memory decides: with `auto` no job is given a second card to be done sooner, for then
    another job would wait for it. Cards that train side by side hold the whole base each, so more
    of them help to fit only where they share it; and they share it only where nothing else fits,
    for layers then come from the host in each pass, there and back.

    Args:
        wanted: what the spec asks for.
        most: cards that there are.
        may_share: this job's base can be shared.
        fits: whether the job fits so many of them; None: nothing is known of what it needs.
    """
    if wanted != "auto":
        shared = Ranks(count=wanted, shard_base=True)
        must_share = wanted > 1 and may_share and fits(Ranks(count=wanted)) is False
        return shared if must_share and fits(shared) else Ranks(count=wanted)
    if fits(ALONE) is not False:
        return ALONE
    for count in range(2, most + 1) if may_share else ():
        if fits(found := Ranks(count=count, shard_base=True)):
            return found
    return None
