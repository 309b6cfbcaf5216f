"""Place: a training starts on the card of a further box where it fits and is fastest.

What follows a training (export, held-out answers, what is handed over) is done by this box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runner.card.memory import GpuMemory
from runner.contract.method_choice import MethodChoice
from runner.contract.states import Stage
from runner.daemon.ask_aside import NotYet
from runner.daemon.book import Live
from runner.daemon.cards import Card
from runner.daemon.change_run import keep_waiting
from runner.daemon.cluster.cluster import Cluster, FarCard
from runner.daemon.cluster.judge_box import Offer, fastest
from runner.daemon.daemon import Daemon
from runner.daemon.stages.ask_card import Asked, Together, describe
from runner.daemon.stages.await_answers import awaiting_answers
from runner.daemon.stages.choose_plan import Ahead, look_ahead
from runner.daemon.stages.look_at_card import Seen, method_on

_MOST_ASKED = 20
"""Runs that are looked at in one round, a forecast for each kind of card: some milliseconds."""
NO_BOX = "it waits for a box that trains (RUNNER_CLUSTER=others), and none is there"
NO_CARD = "it waits for a free card of a further box"
_Plan = tuple[Ahead, MethodChoice | None]


def may_train_far(live: Live) -> bool:
    """Whether a run's next stage may go to a further box: a training on one card."""
    return live.next_stage is Stage.TRAIN and live.spec.resources.gpus in (1, "auto")


def placed_far(
    daemon: Daemon,
    waiting: Sequence[Live],
    here: Sequence[Card],
    at: float,
) -> tuple[Live, Together, FarCard] | None:
    """Choose the first run that starts on a further box now, and its card there.

    Args:
        daemon: the daemon, with a cluster.
        waiting: runs that could go on, in their order; none that waits for another of its job.
        here: free cards of this box.
        at: monotonic.
    """
    cluster = daemon.cluster
    assert cluster is not None
    free = cluster.free_cards(at)
    for live in list(waiting)[: _MOST_ASKED if free else 0]:
        if not may_train_far(live):
            continue
        found: tuple[Together, FarCard] | None = None
        with daemon.isolating(live, at), awaiting_answers(daemon, live):
            found = _choose(daemon, live, cluster, free, here, at)
        if found is not None:
            return live, *found
    return None


def tell_who_waits(daemon: Daemon, waiting: Sequence[Live], at: float) -> None:
    """Say what trainings wait for where this box trains nothing itself."""
    assert daemon.cluster is not None
    well = daemon.cluster.well_cards(at)
    for live in waiting:
        if may_train_far(live):
            model = live.spec.model
            why = NO_CARD if well else NO_BOX
            if well and not any(daemon.cluster.sees_model(card.box, model) for card in well):
                why = f"no further box sees the model {model} under models/"
            with daemon.isolating(live, at):
                keep_waiting(daemon, live, why)


def _choose(
    daemon: Daemon,
    live: Live,
    cluster: Cluster,
    free: Sequence[FarCard],
    here: Sequence[Card],
    at: float,
) -> tuple[Together, FarCard] | None:
    known: dict[tuple[str, int], _Plan] = {}

    def plan(card: FarCard) -> _Plan:
        key = (card.memory.name, card.memory.total_bytes) if card.memory else ("", 0)
        if key not in known or (card.memory is not None and card.memory.is_shared):
            known[key] = _ahead(daemon, live, card.memory, is_here=False)
        return known[key]

    def will_do(card: FarCard) -> bool:
        return cluster.sees_model(card.box, live.spec.model) and not _needs_card(daemon, card)

    offers = [
        replace(_offer(place, plan(card)[0]), free_since=cluster.free_since(card))
        for place, card in enumerate(free)
        if will_do(card)
    ]
    best = fastest(offers, here=_at_home(daemon, live, here, at) if offers else ())
    if best is None and daemon.settings.cluster == "others":
        every = [card for card in cluster.well_cards(at) if will_do(card)]
        best = _last_word(offers, free, [plan(card)[0].facts.get("fits") for card in every])
    if best is None:
        return None
    card = free[best.place]
    ahead, chosen = plan(card)
    asked = Asked(
        card=daemon.cards.first, seen=Seen(memory=card.memory), ahead=ahead, chosen=chosen
    )
    return Together(asked=(asked,), planned=asked), card


def _last_word(
    offers: Sequence[Offer], free: Sequence[FarCard], fits: Sequence[bool | None]
) -> Offer | None:
    """Choose the largest free card where a job is forecast to fit on none: that has the last word.

    As on one box: the training tries it, and says by how much it misses.
    """
    if not offers or any(one is not False for one in fits):
        return None
    sizes = {
        one.place: memory.total_bytes if (memory := free[one.place].memory) else 0 for one in offers
    }
    return max(offers, key=lambda one: (sizes[one.place], -one.free_since))


def _needs_card(daemon: Daemon, card: FarCard) -> bool:
    """Whether a box without a card is passed over: where this one has a card, jobs need one."""
    return card.memory is None and daemon.cards.served > 0 and daemon.settings.device != "cpu"


def _ahead(daemon: Daemon, live: Live, memory: GpuMemory | None, *, is_here: bool) -> _Plan:
    chosen = method_on(daemon, live, memory, on_card=memory is not None)
    spec = live.spec.with_method(chosen.method) if chosen else live.spec
    ahead = look_ahead(daemon.settings, live.run, live.record, spec, memory, is_here=is_here)
    return ahead, chosen


def _offer(place: int, ahead: Ahead) -> Offer:
    fits = False if ahead.waits else ahead.facts.get("fits")
    return Offer(place=place, fits=fits, seconds=ahead.facts.get("seconds"))


def _at_home(daemon: Daemon, live: Live, here: Sequence[Card], at: float) -> list[Offer]:
    """Give what free cards of this box say; one whose driver is still to answer says nothing."""
    if daemon.settings.cluster != "on":
        return []
    found = []
    for place, card in enumerate(here):
        try:
            memory = describe(card, at)
        except NotYet:
            continue
        if not card.problem:
            found.append(_offer(place, _ahead(daemon, live, memory, is_here=True)[0]))
    return found
