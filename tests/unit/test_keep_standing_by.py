"""Processes that stand by, and the memory of the machine: real processes, that import nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from runner import clock
from runner.card.find_cards import NamedCard
from runner.clock import now
from runner.contract import stage_environment
from runner.contract.record import RunRecord
from runner.contract.settings import Settings
from runner.contract.states import Stage, State
from runner.daemon.book import Live
from runner.daemon.cards import Card
from runner.daemon.daemon import Daemon
from runner.daemon.stages import stand_by as module
from runner.daemon.stages.keep_standing_by import end_standing_by, keep_standing_by
from runner.daemon.stages.process_for import process_for
from runner.daemon.stages.stand_by import Seat, StandBy
from runner.spec.read_spec import read_spec
from runner.words import GIB

WAITS = ("sh", "-c", "exec sleep 600")
MINUTE = 60.0


class Machine:
    """A daemon on a machine with so much free memory."""

    def __init__(self, daemon: Daemon, patched: pytest.MonkeyPatch) -> None:
        self.daemon = daemon
        self.free_gib = 64.0
        patched.setattr(module, "_free_bytes", lambda: int(self.free_gib * GIB))
        patched.setattr(module, "_started", [])

    @property
    def seats(self) -> list[Seat]:
        """Where processes may stand by: for rows, then for the card."""
        return [*self.daemon.cards.preparers, *(card.seat for card in self.daemon.cards.all)]

    def ready(self, at: float) -> list[int]:
        """Let a round pass, and give the pids of those that stand by after it."""
        keep_standing_by(self.daemon, at)
        return [seat.process.pid for seat in self.seats if seat.process is not None]


TWO = tuple(NamedCard(number=str(n), asked_as=f"GPU-{n}", uuid=f"GPU-{n}") for n in range(2))


def make(tmp_path: Path, *named: NamedCard) -> Daemon:
    """Make the daemon of a box whose owner wants processes to stand by."""
    settings = Settings(
        jobs_dir=tmp_path / "jobs",
        outputs_dir=tmp_path / "outputs",
        models_dir=tmp_path / "models",
        device="cpu",
        stage_command=WAITS,
        stand_by=True,
    )
    settings.outputs.private.mkdir(parents=True)
    return Daemon(settings, named)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """An idle box."""
    daemon = make(tmp_path)
    yield Machine(daemon, monkeypatch)
    end_standing_by(daemon)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """An idle box with two cards."""
    daemon = make(tmp_path, *TWO)
    yield Machine(daemon, monkeypatch)
    end_standing_by(daemon)


def add_run(
    daemon: Daemon, which: Stage, *cards: Card, is_at_work: bool = True, **fields: Any
) -> None:
    """Have a run with a stage at work, or with one that is next."""
    run = daemon.outputs.run("job", "20261123T221005Z-k3f9")
    record = RunRecord(
        job="job",
        run_id=run.run_id,
        state=State.PREPARING,
        file_name="job.yaml",
        created_at=now(),
        spec_sha256="",
        next_stage=which,
        **fields,
    )
    spec = read_spec(b"model: m\ndata: d.jsonl\n", file_name="job.yaml")
    live = Live(run=run, record=record, asked=spec)
    if is_at_work:
        live.stage, live.cards = which, cards
        live.child = object()  # type: ignore[assignment]
    daemon.book.runs[run.run_id] = live


def test_those_for_rows_are_as_many_as_cards_wait_for_them(two: Machine) -> None:
    """None for a card that works, is lost, or has its rows; and who is ready stays so."""
    rows, cards = two.daemon.cards.preparers, two.daemon.cards.all

    def ready() -> list[StandBy]:
        two.ready(0.0)
        assert all(card.seat.process is not None for card in cards)
        return [seat.process for seat in rows if seat.process is not None]

    first, second = ready()
    taken, rows[0].process = rows[0].process, None  # it has become a stage
    assert taken is first
    add_run(two.daemon, Stage.PREPARE)
    assert ready() == [second]
    add_run(two.daemon, Stage.TRAIN, is_at_work=False)
    assert ready() == [second]
    add_run(two.daemon, Stage.TRAIN, cards[0])
    assert ready() == [second]
    two.daemon.book.runs.clear()
    assert len(ready()) == 2
    cards[1].guard.stage_lost_it("it is lost", 0.0)
    assert len(ready()) == 1
    first.end()


def test_each_counts_before_it_has_imported(machine: Machine) -> None:
    """Those that start together are not started on the same free memory."""
    machine.free_gib = 4.5
    assert len(machine.ready(0.0)) == 1
    assert len(machine.ready(1.0)) == 1
    module._started[:] = [began - MINUTE for began in module._started]
    assert len(machine.ready(2.0)) == 2


def test_they_end_where_memory_is_short(machine: Machine) -> None:
    """The kernel would end the stage that takes what is left; they come back, and not at once."""
    first = machine.ready(0.0)
    assert len(first) == 2
    machine.free_gib = 2.1
    assert machine.ready(1.0) == first
    machine.free_gib = 1.9
    assert machine.ready(2.0) == []
    machine.free_gib = 64.0
    assert machine.ready(9 * MINUTE) == []
    assert len(machine.ready(11 * MINUTE)) == 2


@pytest.mark.parametrize("which", [Stage.PREPARE, Stage.EVALUATE])
def test_none_stands_by_beside_a_stage_that_memory_did_not_suffice_for(
    machine: Machine, which: Stage
) -> None:
    """All there is is for its second try."""
    assert len(machine.ready(0.0)) == 2
    add_run(machine.daemon, which, tries={which.value: 2})
    assert machine.ready(1.0) == []
    machine.daemon.book.runs.clear()
    assert len(machine.ready(2.0)) == 2


def test_none_stands_by_outside_the_cards_hours(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else wants the box then."""
    machine.daemon.settings = replace(machine.daemon.settings, hours="20:00-06:00")
    for hour, count in ((12, 0), (22, 2), (12, 0)):
        said = datetime(2026, 11, 25, hour).astimezone()
        monkeypatch.setattr(clock, "now", lambda said=said: said)
        assert len(machine.ready(float(hour))) == count


def test_what_sees_another_card_is_replaced(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver had not said what the card is called when it was started."""
    rows, card = machine.ready(0.0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    after = machine.ready(1.0)
    assert len(after) == 2
    assert after[0] == rows
    assert after[1] != card


def test_a_stage_with_another_environment_leaves_them_to_the_next(machine: Machine) -> None:
    """A second try spares memory by its environment: two for rows were ended for one such try."""
    machine.ready(0.0)
    seat = machine.daemon.cards.preparers[0]
    ready = seat.process
    assert ready is not None
    said = {
        sparing: stage_environment.environment(
            os.environ,
            home=machine.daemon.settings.stage_home.resolve(),
            card=stage_environment.NO_CARD,
            spare_host_memory=sparing,
        )
        for sparing in (True, False)
    }
    assert seat.take(said[True]) is None
    assert ready.is_there
    assert seat.take(said[False]) is ready
    ready.end()


def test_where_one_has_ended_the_other_is_taken(two: Machine, tmp_path: Path) -> None:
    """Two stand by for rows; the stage begins in whichever is there."""
    first, second, *_ = two.ready(0.0)
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    process = process_for(two.daemon, Stage.PREPARE, tmp_path, two.daemon.cards.all[:1], held=())
    assert process.pid == second
    process.kill()
    process.wait()


def test_one_that_dies_as_it_is_handed_a_stage_is_done_without(tmp_path: Path) -> None:
    """It was there when it was looked at; the stage gets a process of its own."""
    one = StandBy(WAITS, {"PATH": os.environ["PATH"]})
    os.kill(one.pid, signal.SIGKILL)
    os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
    assert one.become(Stage.PREPARE, tmp_path, log=tmp_path / "log") is None
    assert not one.is_there


def test_one_whose_log_cannot_be_written_ends(tmp_path: Path) -> None:
    """Nobody would read what it says."""
    one = StandBy(WAITS, {"PATH": os.environ["PATH"]})
    assert one.become(Stage.PREPARE, tmp_path, log=tmp_path / "gone" / "log") is None
    assert not one.is_there


class Stuck:
    """Stands in for a process within a driver that does not answer: no signal ends it.

    Such a driver cannot be had here.
    """

    def kill(self) -> None:
        """It does not hear it."""

    def wait(self, timeout: float | None = None) -> int:
        """Nor ends."""
        assert timeout is not None, "the daemon would wait as long as the driver hangs"
        raise subprocess.TimeoutExpired("stage", timeout)


def test_one_that_does_not_end_holds_no_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that is lost may keep who has opened its driver."""
    one = StandBy(WAITS, {"PATH": os.environ["PATH"]})
    real = one._process
    monkeypatch.setattr(one, "_process", Stuck())
    one.end()
    real.kill()
    real.wait()


def test_nothing_of_one_stays_open_that_has_become_a_stage(tmp_path: Path) -> None:
    """A daemon hands over hundreds."""
    before = len(os.listdir("/proc/self/fd"))
    one = StandBy(WAITS, {"PATH": os.environ["PATH"]})
    process = one.become(Stage.PREPARE, tmp_path, log=tmp_path / "log")
    assert process is not None
    assert len(os.listdir("/proc/self/fd")) == before
    process.kill()
    process.wait()
