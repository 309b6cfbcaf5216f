"""Where a training goes on: on cards of unequal size, and on a box that was given up.

What these are given is made up; the decisions and the cluster's files are the product's own.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_runs import PLAN, attempt, record

from runner.card.memory import GpuMemory
from runner.contract.cluster import Now, Seen
from runner.contract.record import CardUsed, RunRecord
from runner.contract.settings import Settings
from runner.contract.states import Stage
from runner.daemon.cluster import far_runs
from runner.daemon.cluster.cluster import Cluster
from runner.daemon.cluster.far_child import FarChild
from runner.daemon.cluster.far_runs import follow_cluster, is_far, take_up_far, ticket_of
from runner.daemon.cluster.place import may_train_far
from runner.daemon.gpu_watch import StillAsking
from runner.daemon.stages import ask_card
from runner.daemon.stages.ask_card import Asked, plan_together
from runner.daemon.stages.look_at_card import Seen as CardSeen
from runner.forecast.ranks import Ranks
from runner.forecast.work import GIB


def memory(gib: float, free: float | None = None) -> GpuMemory:
    """Give a card of so many GiB."""
    left = gib if free is None else free
    return GpuMemory(
        name="x", total_bytes=int(gib * GIB), free_bytes=int(left * GIB), flops=None, holders=()
    )


class Together:
    """Two cards or more that are asked together; what a plan needs is made up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *memories: GpuMemory) -> None:
        self.cards = [SimpleNamespace(uuid=f"GPU-{n}") for n in range(len(memories))]
        self.daemon: Any = SimpleNamespace(cards=SimpleNamespace(all=self.cards), settings=None)
        self.asked: list[Any] = [
            Asked(card=card, seen=CardSeen(memory=found))  # type: ignore[arg-type]
            for card, found in zip(self.cards, memories, strict=True)
        ]
        self.planned_for: list[GpuMemory] = []
        monkeypatch.setattr(ask_card, "method_of", lambda *_: None)
        monkeypatch.setattr(ask_card, "look_ahead", self._look_ahead)

    def _look_ahead(self, *given: Any) -> Any:
        self.planned_for.append(given[4])
        return SimpleNamespace(facts={"gpu_memory_bytes": 10 * GIB}, waits=None)

    def plan(self) -> Any:
        """Plan for all of them, asked in the other order."""
        live: Any = SimpleNamespace(spec=None, run=None, record=None)
        return plan_together(self.daemon, live, self.asked[::-1], Ranks(count=len(self.asked)))


@pytest.mark.parametrize("sizes", [(24, 16), (16, 24), (24, 16, 48)])
def test_the_smallest_of_several_cards_is_planned_for(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...]
) -> None:
    """What the largest holds would run out of memory on the others; their order is the driver's."""
    made = Together(monkeypatch, *(memory(size) for size in sizes))
    found = made.plan()
    assert [one.total_bytes for one in made.planned_for] == [16 * GIB]
    assert found.planned.card is made.cards[sizes.index(16)]
    assert list(found.cards) == made.cards
    assert found.planned.problem is None


def test_each_of_several_cards_must_have_the_memory_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest has; another program holds the larger one's."""
    found = Together(monkeypatch, memory(16), memory(24, free=5.0)).plan()
    assert "memory is held by another program" in found.planned.problem


def test_several_cards_are_found_by_their_uuids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that of one, two ranks would sit on one card."""
    made = Together(monkeypatch, memory(16), memory(24))
    made.cards[1].uuid = None
    with pytest.raises(StillAsking):
        made.plan()


@pytest.mark.parametrize(
    ("stage", "gpus", "may"),
    [
        (Stage.TRAIN, 1, True),
        (Stage.TRAIN, "auto", True),
        (Stage.TRAIN, 2, False),
        (Stage.RATES, 1, False),
        (Stage.EXPORT, 1, False),
        (Stage.PREPARE, 1, False),
    ],
)
def test_only_a_training_on_one_card_goes_to_a_further_box(
    stage: Stage, gpus: int | str, *, may: bool
) -> None:
    """A ticket names one card, and what follows is the head's."""
    live: Any = SimpleNamespace(
        next_stage=stage, spec=SimpleNamespace(resources=SimpleNamespace(gpus=gpus))
    )
    assert may_train_far(live) is may


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """A head's side of a cluster."""
    (tmp_path / ".runner").mkdir()
    settings = Settings(jobs_dir=tmp_path, outputs_dir=tmp_path, models_dir=tmp_path)
    return Cluster(settings, say_event=lambda *_, **__: None)


def far_record(**changes: Any) -> RunRecord:
    """Give the record of a run that trains on a further box."""
    card = CardUsed(number="0", name="x", uuid="GPU-bb22")
    made = attempt(1, PLAN, first=1, last=None, outcome=None).model_copy(
        update={"box": "cellar", "token": "3f9c22ab", "cards": (card,), **changes}
    )
    return record(attempts=(made,))


def test_a_fenced_attempt_is_fenced_after_a_restart_as_well(cluster: Cluster) -> None:
    """Its box is back, and says that it has ended well: the record has said that nothing counts."""
    daemon: Any = SimpleNamespace(cluster=cluster)
    for fenced in (False, True):
        live: Any = SimpleNamespace(record=far_record(fenced=fenced), child=None, stage=None)
        take_up_far(daemon, live)
        assert live.stage is Stage.TRAIN
        assert live.child.is_fenced is fenced
        token = live.child.ticket.token
        said = Seen(ticket="x", token=token, agent="a", now=Now.ENDED, exit_code=0)
        live.child.hear(said)
        assert (live.child.poll() == 0) is not fenced


def test_an_attempt_that_has_ended_before_its_box_went_is_not_given_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said so: hours of training count."""
    changed: list[Any] = []
    monkeypatch.setattr(far_runs, "change", lambda *_, **more: changed.append(more))
    monkeypatch.setattr(far_runs, "keep_waiting", lambda *_, **__: None)
    child = cluster.attach(ticket_of(far_record()))
    live: Any = SimpleNamespace(record=far_record(), child=child)

    class Daemon:
        """What `follow_cluster` takes of one."""

        def __init__(self) -> None:
            self.cluster = cluster
            self.book = SimpleNamespace(runs={"x": live})

        def noting_trouble(self, *_: Any) -> Any:
            """Let trouble through."""
            from contextlib import nullcontext

            return nullcontext()

        isolating = noting_trouble

    daemon: Any = Daemon()
    at = time.monotonic()
    follow_cluster(daemon, at)
    child.hear(Seen(ticket="x", token=child.ticket.token, agent="a", now=Now.ENDED, exit_code=0))
    follow_cluster(daemon, at + 1000.0)
    assert child.lost
    assert (changed, child.poll()) == ([], 0)
    child.seen = None
    follow_cluster(daemon, at + 2000.0)
    assert changed[0]["attempts"][0].fenced
    assert child.is_fenced


def test_which_attempts_are_far() -> None:
    """An open one on a further box; its ticket has all that the box needs, and no more."""
    assert is_far(far_record())
    assert not is_far(far_record(box=""))
    assert not is_far(far_record(outcome="interrupted"))
    assert not is_far(record(attempts=()))
    ticket = ticket_of(far_record())
    assert (ticket.box, ticket.card, ticket.number) == ("cellar", "GPU-bb22", 1)
    assert FarChild(ticket, changed=lambda: None).poll() is None
