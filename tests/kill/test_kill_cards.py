"""Jobs on two cards, one on each or one on both, are killed, and go on where they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from card_box import UUIDS, CardsBox
from daemon_box import wait_until
from figures import Figures
from kill_box import AtPoint, KillBox
from killing import children_of

from runner.contract.states import State
from runner.files.lock import Lock


class TwoCards(KillBox, CardsBox):
    """A box that is killed, with two cards."""

    def __init__(self, root: Path, *, jobs: int = 2) -> None:
        """Begin with both cards well."""
        super().__init__(root, jobs=jobs)
        self.cards_say(0, 0)

    def settings(self) -> dict[str, Any]:
        """Work with both cards; without what imports torch beforehand, which no stand-in needs."""
        return {**super().settings(), "gpus": "all", "stand_by": False}

    def steps(self) -> dict[str, set[int]]:
        """Tell which steps each job has done so far."""
        done: dict[str, set[int]] = {}
        path = self.root / "journal"
        for line in path.read_text().splitlines() if path.exists() else []:
            job, _, what, step = line.split()
            if what == "step":
                done.setdefault(job, set()).add(int(step))
        return done

    def both_are_at(self, step: int) -> bool:
        """Whether two jobs have come so far."""
        return sum(max(done) >= step for done in self.steps().values()) == 2


def test_a_daemon_killed_under_two_trainings_takes_both_up(
    tmp_path: Path, figures: Figures
) -> None:
    """First the daemon alone, whose trainings leave checkpoints; then everything at once."""
    box = TwoCards(tmp_path / "box")
    (box.root / "slow").touch()
    for step, victims in ((2, "daemon"), (8, "both")):
        with box.daemon() as daemon:
            wait_until(lambda step=step: box.both_are_at(step))
            stages = children_of(daemon.pid)
            assert len(stages) >= 2
            box.kill_now(daemon.pid, victims)
    (box.root / "slow").unlink()
    box.live([])
    assert box.lost() == []
    for name in ("job0", "job1"):
        (record,) = [one for one in box.records() if one.job == name]
        assert len(record.attempts) == 3
    figures.count("kills under two trainings on two cards", box.kills)


def test_one_training_killed_beside_another_is_taken_up_alone(tmp_path: Path) -> None:
    """The other one is not touched by it: its process lives on, and it has one attempt."""
    box = TwoCards(tmp_path / "box")
    (box.root / "slow").touch()
    with box.daemon() as daemon:
        wait_until(lambda: box.both_are_at(4))
        (box.root / "slow").unlink()
        line = (box.root / "journal").read_text().splitlines()[-1]
        job, pid, _, _ = line.split()
        box.kill_now(int(pid), "daemon")
        assert daemon.wait(timeout=120) in (0, 1)
    box.live([])
    assert box.lost() == []
    attempts = {one.job: len(one.attempts) for one in box.records()}
    assert attempts.pop(job) == 2
    assert list(attempts.values()) == [1]


@pytest.mark.parametrize(
    ("side", "point", "index"),
    [
        ("daemon", "stage recorded", 4),
        ("daemon", "stage started", 4),
        ("child", "checkpoint named", 2),
        ("child", "adapter named", 1),
        ("daemon", "stage ended", 4),
    ],
)
def test_a_power_cut_at_a_named_step_loses_nothing_of_either(
    tmp_path: Path, side: Any, point: str, index: int
) -> None:
    """Wherever the two stand, each step is done once."""
    box = TwoCards(tmp_path / "box")
    box.live([AtPoint(side=side, point=point, index=index, victims="both")])
    assert len(box.hits()) == 1
    assert box.lost() == []
    assert {one.state for one in box.records()} == {State.SUCCEEDED}


class OneOnTwo(TwoCards):
    """A box whose jobs take both cards, one after the other."""

    def fill(self) -> None:
        """Drop them, and a bad spec."""
        super().fill()
        for name in (f"job{number}" for number in range(self.good_jobs)):
            two = f"model: m\ndata: {name}.jsonl\nresources: {{gpus: 2}}\n"
            self.drop_bytes(name, two, State.SUCCEEDED)

    def held(self) -> list[Path]:
        """List the leases of cards that somebody holds."""
        leases = (self.outputs.gpu_lease, self.outputs.lease_of_card(UUIDS[1]))
        return [lease for lease in leases if lease.exists() and Lock.is_held(lease)]


@pytest.mark.parametrize(
    ("side", "point", "index", "victims"),
    [
        ("daemon", "stage planned", 2, "self"),
        ("daemon", "stage recorded", 2, "both"),
        ("daemon", "stage started", 2, "self"),
        ("daemon", "stage started", 2, "both"),
        ("child", "checkpoint named", 2, "self"),
        ("child", "checkpoint named", 2, "other"),
        ("child", "checkpoint named", 2, "launcher"),
        ("child", "checkpoint named", 2, "both"),
        ("daemon", "stage ended", 2, "self"),
    ],
)
def test_one_job_on_both_cards_is_killed_and_goes_on(
    tmp_path: Path, side: Any, point: str, index: int, victims: Any
) -> None:
    """Wherever it stands: each step is done once, on both cards, and neither stays held."""
    box = OneOnTwo(tmp_path / "box")
    box.live([AtPoint(side=side, point=point, index=index, victims=victims)])
    assert len(box.hits()) == 1
    assert box.lost() == []
    assert box.held() == []
    for record in box.records():
        assert record.state is State.SUCCEEDED
        assert {one.ranks for one in record.attempts} == {2}
        assert [card.uuid for card in record.attempts[-1].cards] == list(UUIDS)


def test_a_daemon_killed_under_one_job_on_both_cards_takes_it_up(
    tmp_path: Path, figures: Figures
) -> None:
    """The daemon alone, then everything at once: the next one finds both cards free."""
    box = OneOnTwo(tmp_path / "box", jobs=1)
    (box.root / "slow").touch()
    for step, victims in ((2, "daemon"), (8, "both")):
        with box.daemon() as daemon:
            wait_until(lambda step=step: max(box.steps().get("job0", {0})) >= step)
            assert len(box.held()) == 2
            box.kill_now(daemon.pid, victims)
        wait_until(lambda: not box.held())
    (box.root / "slow").unlink()
    box.live([])
    assert box.lost() == []
    (record,) = box.records()
    assert [one.ranks for one in record.attempts] == [2, 2, 2]
    figures.count("kills under one training on two cards", box.kills)
