"""Place: a training starts on the card of a further box where it fits and is fastest.

What follows a training (export, held-out answers, what is handed over) is done by this box.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from runner.daemon.stages.next_start import AtWork, must_wait_for_its_job

_MOST_ASKED = 20
"""Runs that are looked at in one round, a forecast for each kind of card: some milliseconds."""
NO_BOX = "it waits for a box that trains (RUNNER_CLUSTER=others), and none is there"
NO_CARD = "it waits for a free card of a further box"


def may_train_far(live: Live) -> bool:
    """Whether a run's next stage may go to a further box: a training on one card."""
    return live.next_stage is Stage.TRAIN and live.spec.resources.gpus in (1, "auto")


def placed_far(
    daemon: Daemon,
    waiting: Sequence[Live],
    at_work: Sequence[AtWork],
    here: Sequence[Card],
    at: float,
) -> tuple[Live, Together, FarCard] | None:
    """Choose the first run that starts on a further box now, and its card there.

    Args:
        daemon: the daemon, with a cluster.
        waiting: runs that could go on, in their order.
        at_work: what is at work.
        here: free cards of this box.
        at: monotonic.
    """
    cluster = daemon.cluster
    assert cluster is not None
    free = cluster.free_cards(at)
    for live in list(waiting)[: _MOST_ASKED if free else 0]:
        if not may_train_far(live) or must_wait_for_its_job(live.record.job, at_work):
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
    there = any(not daemon.cluster.problem(name, at) for name in daemon.cluster.boxes)
    for live in waiting:
        if may_train_far(live):
            with daemon.isolating(live, at):
                keep_waiting(daemon, live, NO_CARD if there else NO_BOX)


def _choose(
    daemon: Daemon,
    live: Live,
    cluster: Cluster,
    free: Sequence[FarCard],
    here: Sequence[Card],
    at: float,
) -> tuple[Together, FarCard] | None:
    known: dict[tuple[str, int], tuple[Ahead, MethodChoice | None]] = {}
    offers = []
    for place, card in enumerate(free):
        if not cluster.sees_model(card.box, live.spec.model) or _needs_card(daemon, card):
            continue
        key = (card.memory.name, card.memory.total_bytes) if card.memory else ("", 0)
        if key not in known:
            known[key] = _ahead(daemon, live, card.memory)
        offers.append(_offer(place, known[key][0]))
    best = fastest(offers, here=_at_home(daemon, live, here, at) if offers else ())
    if best is None:
        return None
    card = free[best.place]
    key = (card.memory.name, card.memory.total_bytes) if card.memory else ("", 0)
    ahead, chosen = known[key]
    asked = Asked(
        card=daemon.cards.first, seen=Seen(memory=card.memory), ahead=ahead, chosen=chosen
    )
    return Together(asked=(asked,), planned=asked), card


def _needs_card(daemon: Daemon, card: FarCard) -> bool:
    """Whether a box without a card is passed over: where this one has a card, jobs need one."""
    return card.memory is None and daemon.cards.served > 0 and daemon.settings.device != "cpu"


def _ahead(
    daemon: Daemon, live: Live, memory: GpuMemory | None
) -> tuple[Ahead, MethodChoice | None]:
    chosen = method_on(daemon, live, memory, on_card=memory is not None)
    spec = live.spec.with_method(chosen.method) if chosen else live.spec
    return look_ahead(daemon.settings, live.run, live.record, spec, memory), chosen


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
            found.append(_offer(place, _ahead(daemon, live, memory)[0]))
    return found
