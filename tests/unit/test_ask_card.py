"""Cards that differ: which one a stage waits for, and for which one rows are prepared.

The cards are described by hand: no machine of the tests has two that differ.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from runner.card.memory import GpuMemory
from runner.contract.batch import BatchPlan
from runner.contract.states import Stage
from runner.daemon.stages.ask_card import (
    NO_FP8,
    TOO_SMALL,
    Asked,
    best_first,
    only_lost,
    waits_for_other,
)
from runner.daemon.stages.choose_plan import Ahead
from runner.daemon.stages.look_at_card import Seen
from runner.forecast.work import GIB

PLAN = BatchPlan(per_device_batch_size=1, gradient_accumulation_steps=8)


def card(gib: int, capability: str = "8.6", problem: str = "") -> Any:
    """Make a card as the daemon has seen it."""
    memory = GpuMemory(
        name="card",
        total_bytes=gib * GIB,
        free_bytes=gib * GIB,
        flops=None,
        capability=capability,
    )
    return SimpleNamespace(described=memory, problem=problem)


def box(*cards: Any, once: bool = False) -> Any:
    """Make a daemon with these cards."""
    return SimpleNamespace(
        settings=SimpleNamespace(once=once),
        cards=SimpleNamespace(
            all=cards,
            are_several=len(cards) > 1,
            well_first=lambda: sorted(cards, key=lambda one: bool(one.problem)),
        ),
    )


def run(stage: Stage, *, speed: str = "exact", trained_bytes: int | None = None) -> Any:
    """Make a run whose next stage is this one."""
    spec = SimpleNamespace(speed=speed, limits=SimpleNamespace(gpu_memory_gib=None))
    forecast = {} if trained_bytes is None else {"gpu_memory_bytes": trained_bytes}
    return SimpleNamespace(next_stage=stage, spec=spec, record=SimpleNamespace(forecast=forecast))


def said(daemon: Any, live: Any, on: Any, *, fits: bool | None = None) -> str | None:
    """Ask a card."""
    ahead = None if fits is None else Ahead(plan=PLAN, facts={"fits": fits})
    return waits_for_other(daemon, live, Asked(card=on, seen=Seen(), ahead=ahead), 0.0)


def test_a_training_that_does_not_fit_waits_for_a_larger_card() -> None:
    """Also where that is lost; whoever works a queue off by hand is not kept for ever."""
    small, large, lost = card(8), card(24), card(24, problem="lost")
    train = run(Stage.TRAIN)
    assert said(box(small, large), train, small, fits=False) == TOO_SMALL
    assert said(box(small, large), train, small, fits=True) is None
    assert said(box(small, large), train, large, fits=False) is None
    assert said(box(small, lost), train, small, fits=False) == TOO_SMALL
    assert said(box(small, lost, once=True), train, small, fits=False) is None
    assert said(box(small), train, small, fits=False) is None


def test_what_follows_a_training_waits_for_a_card_of_its_size() -> None:
    """An evaluation that ends for want of memory leaves the adapter without a verdict."""
    small, large = card(8), card(24)
    for stage in (Stage.EVALUATE, Stage.HAND_OVER):
        assert said(box(small, large), run(stage, trained_bytes=20 * GIB), small) == TOO_SMALL
        assert said(box(small, large), run(stage, trained_bytes=6 * GIB), small) is None
        assert said(box(small, large), run(stage), small) is None  # nothing was forecast
    assert said(box(small, large), run(Stage.EXPORT, trained_bytes=20 * GIB), small) is None


def test_fp8_waits_for_the_card_that_has_it() -> None:
    """Where none has, the stage says so, as on a box with one card."""
    without, has, train = card(24), card(16, "8.9"), run(Stage.TRAIN, speed="fp8")
    assert said(box(without, has), train, without, fits=True) == NO_FP8
    assert said(box(without, has), train, has, fits=True) is None
    assert said(box(without, card(24)), train, without, fits=True) is None
    assert said(box(without, has), run(Stage.TRAIN), without, fits=True) is None


@pytest.mark.parametrize(
    ("speed", "order"),
    [("exact", [24, 16, 8, 48]), ("fp8", [16, 24, 8, 48])],
)
def test_rows_are_prepared_for_the_most_able_card(speed: str, order: list[int]) -> None:
    """The largest, or that with fp8 where it is asked for; a lost one comes last."""
    cards = box(card(48, problem="lost"), card(8), card(24), card(16, "8.9"))
    found: list[Any] = list(best_first(cards, run(Stage.PREPARE, speed=speed), 0.0))
    assert [one.described.total_bytes // GIB for one in found] == order


def test_who_is_offered_a_lost_card_alone_waits_for_another() -> None:
    """Where another one works; where none does, it waits for what is wrong with the card."""
    well, lost = card(24), card(24, problem="it has fallen off the bus")

    def asked(*cards: Any) -> list[Asked]:
        return [Asked(card=one, seen=Seen()) for one in cards]

    assert only_lost(asked(lost), (lost, well))
    assert only_lost(asked(lost, lost), (lost, lost, well))
    assert not only_lost(asked(lost), (lost, lost))
    assert not only_lost(asked(well, lost), (lost, well))
    assert not only_lost((), (lost, well))
