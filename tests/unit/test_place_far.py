"""Where a training is placed among further boxes, and which of them is passed over."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.card.memory import GpuMemory
from runner.clock import now
from runner.contract.batch import BatchPlan
from runner.contract.cluster import BoxCard, Now, Order, Seen, Ticket
from runner.contract.memory_story import OUT_OF_HOST_MEMORY
from runner.contract.record import Attempt, RunRecord
from runner.contract.states import Stage, State
from runner.daemon.book import Live
from runner.daemon.cluster import far_child, far_runs, place
from runner.daemon.cluster.cluster import FarCard
from runner.daemon.cluster.far_child import FarChild
from runner.daemon.cluster.far_runs import follow_cluster, take_up_far
from runner.daemon.cluster.place import NO_BOX, NO_CARD, placed_far, tell_who_waits
from runner.daemon.daemon import Daemon
from runner.daemon.gpu_watch import StillAsking
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
        self.free_since: dict[str, float] = {}
        self.forecasts: list[str] = []
        self.served, self.device, self.cluster = 1, "auto", "others"
        self.waits = set[int]()
        self.here: list[Any] = []
        self.still_asking = set[int]()
        monkeypatch.setattr(place, "_ahead", self._ahead)
        monkeypatch.setattr(place, "describe", self._describe)
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
                free_since=lambda card: self.free_since.get(card.box, 0.0),
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
        waits = "another program holds it" if gib in self.waits else None
        return Ahead(plan=PLAN, facts=facts, waits=waits), None

    def _describe(self, card: Any, _at: float) -> GpuMemory | None:
        if self.here.index(card) in self.still_asking:
            raise StillAsking
        found: GpuMemory | None = card.memory
        return found

    def box_for(self, *runs: Any) -> str | None:
        """Give the box on which the first of these runs that can start does."""
        found = placed_far(self.daemon, runs or (run(),), self.here, 0.0)
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


def test_of_cards_alike_the_one_that_is_free_longest_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the last boxes by name would wait; a quicker one is taken all the same."""
    house = House(monkeypatch, far("attic"), far("cellar"), far("loft", 48))
    house.seconds, house.free_since = {24: 100.0, 48: 100.0}, {"attic": 9.0, "cellar": 3.0}
    house.busy = {"loft"}
    assert house.box_for() == "cellar"
    house.busy, house.free_since["loft"] = set(), 10.0
    house.seconds[48] = 99.0
    assert house.box_for() == "loft"


def test_only_a_training_on_one_card_is_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small runs of rates, what follows a training, and trainings on two cards stay here."""
    house = House(monkeypatch, far("cellar"))
    stay = [run(stage) for stage in Stage if stage is not Stage.TRAIN]
    assert house.box_for(*stay, run(gpus=2)) is None
    assert house.box_for(run(gpus=2), run(gpus="auto")) == "cellar"


def here(gib: int, *, problem: str = "") -> Any:
    """Give a card of this box."""
    return SimpleNamespace(memory=far("here", gib).memory, problem=problem)


def test_a_card_of_this_box_that_is_as_quick_keeps_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A further one is taken where it is known to be quicker, or none of these could start it."""
    house = House(monkeypatch, far("cellar", 24))
    house.cluster, house.seconds = "on", {24: 100.0, 48: 100.0, 80: 99.0, 32: 101.0, 8: 1.0}
    for card, box in ((48, None), (80, None), (32, "cellar"), (8, "cellar")):
        house.here = [here(card)]
        assert house.box_for() == box
    house.here = [here(80, problem="lost")]
    assert house.box_for() == "cellar"
    house.here = [here(8), here(80)]
    assert house.box_for() is None
    house.still_asking = {0}  # its driver is slow: the other one is heard
    assert house.box_for() is None
    house.still_asking = {0, 1}
    assert house.box_for() == "cellar"
    house.still_asking, house.cluster = set(), "others"  # this box does not train
    assert house.box_for() == "cellar"


def test_a_card_whose_memory_somebody_holds_is_none_that_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The forecast says that the job fits there, once that other program has ended."""
    house = House(monkeypatch, far("attic", 48), far("cellar", 24))
    house.seconds, house.waits = {48: 10.0, 24: 100.0}, {48}
    assert house.box_for() == "cellar"
    house.waits = {48, 24}
    house.cluster = "on"
    assert house.box_for() is None


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


class Given:
    """A run whose newest attempt is on a further box, under a head with a cluster."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fenced: bool = False) -> None:
        self.events: list[str] = []
        attempts = (attempt(1, outcome=OUT_OF_HOST_MEMORY), attempt(2, box="cellar", fenced=fenced))
        self.record = RunRecord(
            job="contracts",
            run_id=TICKET.run_id,
            state=State.TRAINING,
            file_name="contracts.yaml",
            created_at=now(),
            spec_sha256="",
            attempts=attempts,
        )
        self.live: Any = SimpleNamespace(record=self.record, child=None, stage=None)
        self.daemon: Any = SimpleNamespace(
            book=SimpleNamespace(runs={"x": self.live}),
            cluster=SimpleNamespace(
                fence_seconds=210.0,
                attach=self._attach,
                look=lambda _at: self.events.append("heard"),
                beat=lambda _at: self.events.append("said"),
            ),
            isolating=Daemon.isolating.__get__(SimpleNamespace()),
            noting_trouble=lambda _what: contextlib.nullcontext(),
        )
        monkeypatch.setattr(far_runs, "change", self._change)
        monkeypatch.setattr(far_runs, "keep_waiting", self._wait)

    def _attach(self, ticket: Ticket) -> FarChild:
        self.ticket = ticket
        return FarChild(ticket, changed=lambda: self.events.append("to be said"))

    def _change(self, _daemon: Any, live: Any, **changes: Any) -> None:
        self.events.append("recorded")
        live.record = live.record.but(**changes)

    def _wait(self, _daemon: Any, _live: Any, why: str, *, again_at: Any) -> None:
        self.events.append(why)
        self.wait_seconds = (again_at - now()).total_seconds()


def attempt(number: int, **more: Any) -> Attempt:
    """Make an attempt."""
    token = TICKET.token
    return Attempt(number=number, token=token, batch_plan=PLAN, started_at=now(), **more)


def test_a_ticket_says_what_the_record_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the attempts before: the machine's memory ran out, so this one spares it."""
    given = Given(monkeypatch)
    take_up_far(given.daemon, given.live)
    assert (given.ticket.number, given.ticket.box) == (2, "cellar")
    assert given.ticket.spare_host_memory
    assert given.live.stage is Stage.TRAIN
    assert not given.live.child.is_fenced


def test_what_was_given_up_stays_given_up_by_the_next_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It waits as long as a stage there may run, from its own start: it knows of no earlier one."""
    given = Given(monkeypatch, fenced=True)
    monkeypatch.setattr(far_runs.time, "monotonic", lambda: 1000.0)
    take_up_far(given.daemon, given.live)
    child = given.live.child
    assert child.is_fenced
    monkeypatch.setattr(far_child.time, "monotonic", lambda: 1209.0)
    assert not child.has_ended
    monkeypatch.setattr(far_child.time, "monotonic", lambda: 1210.0)
    assert child.has_ended


def test_a_box_is_given_up_once_in_the_record_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut in between finds the fence; its stage may run for some minutes after that."""
    given = Given(monkeypatch)
    monkeypatch.setattr(far_child.time, "monotonic", lambda: 50.0)
    take_up_far(given.daemon, given.live)
    child = given.live.child
    follow_cluster(given.daemon, 50.0)
    assert given.events == ["heard", "said"]
    child.lost = True
    given.events.clear()
    for _ in range(2):
        follow_cluster(given.daemon, 50.0)
    assert given.live.record.attempts[-1].fenced
    why = "box cellar is not seen any more: the run goes on from what it had sealed"
    assert given.events == ["heard", "recorded", "to be said", why, "said", "heard", "said"]
    assert 200 < given.wait_seconds <= 210
    monkeypatch.setattr(far_child.time, "monotonic", lambda: 259.0)
    assert not child.has_ended
    monkeypatch.setattr(far_child.time, "monotonic", lambda: 260.0)
    assert child.has_ended


def test_who_has_said_its_end_before_it_went_is_not_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it sealed counts, and so does how it ended."""
    given = Given(monkeypatch)
    take_up_far(given.daemon, given.live)
    child = given.live.child
    child.hear(Seen(ticket=child.ticket.name, token=TICKET.token, agent="a", now=Now.ENDED))
    child.lost = True
    follow_cluster(given.daemon, 50.0)
    assert not child.is_fenced
    assert not given.live.record.attempts[-1].fenced
