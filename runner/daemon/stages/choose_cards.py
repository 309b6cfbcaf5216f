"""Choose cards: how many a run trains on, which of the free ones will do, and why it waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runner.card.memory import GpuMemory
from runner.contract.states import TRAINS
from runner.daemon.book import Live
from runner.daemon.cards import Card
from runner.daemon.daemon import Daemon
from runner.daemon.stages.ask_card import describe, has_fp8
from runner.daemon.stages.choose_plan import fits_on, known_box, read_work
from runner.daemon.stages.next_start import Kind, cards_for, equal_first
from runner.forecast.ranks import ALONE, Ranks, choose_ranks, may_share

AUTO_INSTEAD = (
    "wait, or cancel it and write `gpus: auto` into its spec, which takes no more cards than the "
    "job needs to fit"
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a run's next stage takes of the box."""

    ranks: Ranks = ALONE
    cards: tuple[Card, ...] | None = None
    """The free cards that will do for one of several ranks, those first that are asked first; None:
    it takes one, whichever has the memory."""
    lacks: str = ""
    """Why the box has too few cards for it now, busy ones counted in: others go first."""
    advice: str | None = None


def wanted_cards(daemon: Daemon, live: Live, free: Sequence[Card], at: float) -> Wanted:
    """Tell what a run's next stage takes; training alone takes more than one card.

    Raises:
        StillAsking: the driver has not told of a card yet.
    """
    asked, cards = live.spec.resources.gpus, daemon.cards
    if live.next_stage not in TRAINS or asked == 1 or (asked == "auto" and not cards.are_several):
        return Wanted()
    if asked != "auto" and asked > cards.served:
        return Wanted(lacks=_too_few(asked, cards.served), advice=AUTO_INSTEAD)
    well = [card for card in cards.all if not card.problem]
    if asked != "auto" and asked > len(well):
        return Wanted(lacks=_lost(asked, cards.all), advice=AUTO_INSTEAD)
    seen = {card: describe(card, at) for card in cards.all}
    fits, shares = _forecasts(daemon, live)

    def choose(among: Sequence[Card]) -> Ranks | None:
        known = [memory for card in among if (memory := seen[card]) is not None]
        known.sort(key=lambda memory: -memory.total_bytes)
        return choose_ranks(
            asked,
            most=len(known),
            may_share=shares(known),
            fits=lambda ranks: (
                fits(known[ranks.count - 1], ranks) if ranks.count <= len(known) else None
            ),
        )

    ranks = choose(well)
    with_lost = choose(cards.all) if ranks is None and len(well) < len(cards.all) else None
    if with_lost is not None and with_lost.count > 1:
        return Wanted(lacks=_lost(with_lost.count, cards.all))
    if ranks is None or ranks.count == 1:
        return Wanted()
    kinds = {
        card: Kind(
            place=place,
            name=card.name,
            total_bytes=memory.total_bytes if (memory := seen[card]) else 0,
            fits=fits(memory, ranks) if memory else None,
        )
        for place, card in enumerate(cards.all)
        if card in well
    }
    will_do = cards_for(ranks.count, list(kinds.values()))
    order = equal_first(ranks.count, [kinds[card] for card in free if kinds.get(card) in will_do])
    return Wanted(ranks=ranks, cards=tuple(cards.all[place] for place in order))


def _forecasts(
    daemon: Daemon, live: Live
) -> tuple[
    Callable[[GpuMemory, Ranks], bool | None],
    Callable[[Sequence[GpuMemory]], bool],
]:
    """Give two answers: whether a rank fits a card, and whether cards can share the base."""
    settings, spec = daemon.settings, live.spec
    steps = live.record.total_steps or 0
    read = read_work(settings.models_dir, live.run, spec, total_steps=steps)
    work = read if settings.look_ahead else None
    known: dict[tuple[str, int, Ranks], bool | None] = {}

    def fits(memory: GpuMemory, ranks: Ranks) -> bool | None:
        if spec.speed == "fp8" and not has_fp8(memory):
            return False
        if work is None:
            return None
        key = (memory.name, memory.total_bytes, ranks)
        if key not in known:
            box = known_box(daemon.outputs, spec, memory, ranks)
            known[key] = fits_on(spec, work, box)
        return known[key]

    def shares(memories: Sequence[GpuMemory]) -> bool:
        boxes = [known_box(daemon.outputs, spec, memory) for memory in memories]
        return work is not None and all(may_share(work, box) for box in boxes)

    return fits, shares


def _too_few(wanted: int, served: int) -> str:
    return (
        f"it asks for {wanted} cards, and the box trains on {served} now (RUNNER_GPUS): it waits "
        "until there are as many; other jobs go first"
    )


def _lost(wanted: int, cards: Sequence[Card]) -> str:
    lost = ", ".join(card.title for card in cards if card.problem)
    return (
        f"it needs {wanted} cards at once, and one that it needs is lost ({lost}): it waits for "
        "that; other jobs go first"
    )
