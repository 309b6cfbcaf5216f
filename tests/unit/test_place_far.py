"""Where a training is placed among further boxes, and which of them is passed over."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.card.memory import GpuMemory
from runner.contract.batch import BatchPlan
from runner.contract.cluster import BoxCard, Now, Order, Seen, Ticket
from runner.contract.states import Stage
from runner.daemon.book import Live
from runner.daemon.cluster import place
from runner.daemon.cluster.cluster import FarCard
from runner.daemon.cluster.far_child import FarChild
from runner.daemon.cluster.place import NO_BOX, NO_CARD, placed_far, tell_who_waits
from runner.daemon.daemon import Daemon
from runner.daemon.stages.choose_plan import Ahead
from runner.daemon.stages.end import reap
from runner.forecast.work import GIB

PLAN = BatchPlan(per_device_batch_size=1, gradient_accumulation_steps=1)
TICKET = Ticket(
    box="cellar", job="contracts", run_id="20261128T010101Z-abcd", number=1, token="3f9c22ab"
)


def far(box: str, gib: int | None = 24, *, shared: bool = False) -> FarCard:
    """Give a card of a further box; None: its processor computes."""
    if gib is None:
        return FarCard(box=box, said=BoxCard(), memory=None)
    memory = GpuMemory(
        name=f"card of {gib}",
        total_bytes=gib * GIB,
        free_bytes=gib * GIB // (2 if shared else 1),
        flops=None,
    )
    return FarCard(box=box, said=BoxCard(uuid=f"GPU-{box}"), memory=memory)


class House:
    """A head, and what its further boxes have; nothing of it is on a disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *cards: FarCard) -> None:
        self.cards, self.busy = list(cards), set[str]()
        self.without_model: set[str] = set()
        self.told: list[str] = []
        self.seconds: dict[int, float] = {}
        self.needs_gib = 20
        self.forecasts: list[str] = []
        self.served, self.device, self.cluster = 1, "auto", "others"
        self.here: list[Ahead] = []
        monkeypatch.setattr(place, "_ahead", self._ahead)
        monkeypatch.setattr(place, "_at_home", self._at_home)
        monkeypatch.setattr(place, "keep_waiting", lambda _d, _l, why: self.told.append(why))

    @property
    def daemon(self) -> Any:
        """As what is tested sees it."""
        return SimpleNamespace(
            settings=SimpleNamespace(cluster=self.cluster, device=self.device),
            cards=SimpleNamespace(served=self.served, first="the first card"),
            cluster=SimpleNamespace(
                free_cards=lambda _at: [one for one in self.cards if one.box not in self.busy],
                well_cards=lambda _at: self.cards,
                sees_model=lambda box, _model: box not in self.without_model,
            ),
            isolating=Daemon.isolating.__get__(SimpleNamespace()),
        )

    def _ahead(self, _daemon: Any, _live: Any, memory: GpuMemory | None, **_: Any) -> Any:
        gib = memory.total_bytes // GIB if memory else 0
        self.forecasts.append(memory.name if memory else "")
        facts: dict[str, Any] = {"fits": gib >= self.needs_gib if memory else None}
        if gib in self.seconds:
            facts["seconds"] = self.seconds[gib]
        return Ahead(plan=PLAN, facts=facts), None

    def _at_home(self, *_: Any) -> list[Any]:
        return [place._offer(number, ahead) for number, ahead in enumerate(self.here)]

    def box_for(self, *runs: Any) -> str | None:
        """Give the box on which the first of these runs that can start does."""
        found = placed_far(self.daemon, runs or (run(),), (), 0.0)
        return found and found[2].box


def run(stage: Stage = Stage.TRAIN, gpus: int | str = 1) -> Any:
    """Make a run whose next stage is this."""
    spec = SimpleNamespace(model="m", resources=SimpleNamespace(gpus=gpus))
    return SimpleNamespace(next_stage=stage, spec=spec)


def test_a_box_without_the_model_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it would be the fastest; where none sees it, that is what the run waits for."""
    house = House(monkeypatch, far("attic", 48), far("cellar"))
    house.seconds = {48: 10.0, 24: 100.0}
    assert house.box_for() == "attic"
    house.without_model = {"attic"}
    assert house.box_for() == "cellar"
    house.without_model = {"attic", "cellar"}
    assert house.box_for() is None
    tell_who_waits(house.daemon, [run()], 0.0)
    assert house.told == ["no further box sees the model m under models/"]


def test_a_box_without_a_card_is_passed_over_where_this_one_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its processor would take days; where this box has none either, jobs are meant for that."""
    house = House(monkeypatch, far("attic", None), far("cellar"))
    assert house.box_for() == "cellar"
    house.busy = {"cellar"}
    assert house.box_for() is None
    house.served = 0
    assert house.box_for() == "attic"
    house.served, house.device = 1, "cpu"  # a card that is left alone is none
    assert house.box_for() == "attic"


def test_what_a_run_waits_for_among_further_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No box at all and no free card are two things; who needs no further box is told nothing."""
    house = House(monkeypatch)
    tell_who_waits(house.daemon, [run(), run(Stage.EVALUATE), run(gpus=2)], 0.0)
    house.cards = [far("cellar")]
    tell_who_waits(house.daemon, [run(gpus="auto")], 0.0)
    assert house.told == [NO_BOX, NO_CARD]


def test_a_job_that_fits_nowhere_goes_to_the_largest_free_card(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on one box: the training tries it, and says by how much it misses.

    Not where a busy one has the room: that is waited for. Nor where this box trains, too.
    """
    house = House(monkeypatch, far("attic", 12), far("cellar", 16), far("loft", 8))
    assert house.box_for() == "cellar"
    house.busy = {"cellar"}
    assert house.box_for() == "attic"
    house.cards.append(far("barn", 24))
    house.busy = {"barn"}
    assert house.box_for() is None
    house.busy, house.cluster = set(), "on"
    assert house.box_for() == "barn"
    house.cards.pop()
    assert house.box_for() is None


def test_cards_alike_are_forecast_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty boxes of one kind cost one forecast a run; memory that is shared differs by box."""
    house = House(monkeypatch, *(far(f"box{number}") for number in range(30)))
    assert house.box_for() == "box0"
    assert house.forecasts == ["card of 24"]
    house.cards, house.forecasts = [far("a", shared=True), far("b", shared=True)], []
    assert house.box_for() == "a"
    assert len(house.forecasts) > 1


def test_only_a_training_on_one_card_is_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small runs of rates, what follows a training, and trainings on two cards stay here."""
    house = House(monkeypatch, far("cellar"))
    stay = [run(stage) for stage in Stage if stage is not Stage.TRAIN]
    assert house.box_for(*stay, run(gpus=2)) is None
    assert house.box_for(run(gpus=2), run(gpus="auto")) == "cellar"


def test_a_card_of_this_box_that_is_as_quick_keeps_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A further one is taken where it is known to be quicker, or this one does not hold it."""
    house = House(monkeypatch, far("cellar"))
    house.cluster, house.seconds = "on", {24: 100.0}
    for seconds, box in ((100.0, None), (101.0, "cellar")):
        house.here = [Ahead(plan=PLAN, facts={"fits": True, "seconds": seconds})]
        assert house.box_for() == box
    house.here = [Ahead(plan=PLAN, facts={"fits": False, "seconds": 1.0})]
    assert house.box_for() == "cellar"


@pytest.mark.parametrize("hurry", [False, True])
def test_a_head_that_leaves_stops_no_further_box(hurry: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Nor one that is told twice to leave: the stage trains on, and the next daemon follows it.

    Without a head its box ends it, with a checkpoint, when the lease is over.
    """
    said: list[int] = []
    child = FarChild(TICKET, changed=lambda: said.append(1))
    child.hear(Seen(ticket=TICKET.name, token=TICKET.token, agent="a", now=Now.STARTED, pid=7))
    live = Live(run=tmp_path, record=None, asked=None, child=child, stage=Stage.TRAIN)  # type: ignore[arg-type]
    daemon: Any = SimpleNamespace(
        book=SimpleNamespace(runs={"x": live}),
        stopping=True,
        hurry=hurry,
        settings=SimpleNamespace(grace_seconds=0.0),
        isolating=Daemon.isolating.__get__(SimpleNamespace()),
    )
    reap(daemon, 100.0)
    assert (child.order, child.is_stopping, said) == (Order.GO, False, [])
    child.ask_to_stop(at=100.0, grace_seconds=5.0)  # a person has cancelled it
    reap(daemon, 104.0)
    assert child.order is Order.STOP
    reap(daemon, 105.0)
    assert child.order is Order.KILL
