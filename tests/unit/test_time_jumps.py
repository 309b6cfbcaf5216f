"""A clock that is set while the box works: nothing ends, is rejected or is measured by it."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runner import clock
from runner.clock import now, this_boot, uptime_seconds
from runner.commands.find_run import find_run
from runner.contract.batch import BatchPlan
from runner.contract.checkpoints import sha256_of
from runner.contract.layout import Outputs, RunFolder
from runner.contract.record import Attempt, RunRecord, write_record
from runner.contract.states import Stage, State
from runner.daemon.stages.hang import patience_seconds
from runner.daemon.stages.plans import _seconds_left
from runner.daemon.stages.process import PID_FILE
from runner.daemon.stages.resume_point import resume_point
from runner.daemon.stages.worked import START_SECONDS, worked_seconds
from runner.daemon.start.close_attempts import closed_record
from runner.spec.read_spec import read_spec

JUMPS = [timedelta(hours=2), timedelta(hours=-2), timedelta(days=3653), timedelta(days=-3653)]
SPEC = read_spec(b"model: m\ndata: d.jsonl\nlimits: {hours: 1h}\n", file_name="job.yaml")
PLAN = BatchPlan(per_device_batch_size=1, gradient_accumulation_steps=1)


def open_run(tmp_path: Path, began: datetime) -> tuple[RunFolder, RunRecord]:
    """Leave a run whose attempt has worked since ``began``."""
    run = Outputs(tmp_path).run("job", "20261123T221005Z-k3f9")
    run.attempt(1).mkdir(parents=True)
    attempt = Attempt(number=1, batch_plan=PLAN, started_at=began, first_step=1)
    return run, RunRecord(
        job="job",
        run_id=run.run_id,
        state=State.TRAINING,
        file_name="job.yaml",
        created_at=began,
        spec_sha256="",
        total_steps=100,
        attempts=(attempt,),
    )


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_costs_a_run_none_of_its_hours(tmp_path: Path, jump: timedelta) -> None:
    """A clock that was set during an attempt: what it worked is told by the machine's uptime."""
    run, record = open_run(tmp_path, now() - jump - timedelta(seconds=30))
    ticks = int((uptime_seconds() - 30) * os.sysconf("SC_CLK_TCK"))
    (run.attempt(1) / PID_FILE).write_text(f"7 {ticks} {this_boot()}\n")
    closed = closed_record(run, record, resume_point(run, sha256_of))
    (attempt,) = closed.attempts
    assert attempt.ended_at is not None
    assert attempt.ended_at >= attempt.started_at
    left = _seconds_left(closed, SPEC)
    assert left is not None
    assert 3565 <= left <= 3600


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_while_the_machine_was_off(tmp_path: Path, jump: timedelta) -> None:
    """Of an earlier start of the machine the steps tell: no year counts for ten steps."""
    folder = tmp_path / "01"
    folder.mkdir()
    (folder / PID_FILE).write_text("7 1000 another-start\n")
    began = datetime(2026, 11, 23, 22, 0, tzinfo=UTC)
    times = [began + timedelta(seconds=2 * n) + (jump if n > 5 else timedelta()) for n in range(10)]
    lines = [f'{{"step": {n}, "loss": 1, "time": "{t.isoformat()}"}}' for n, t in enumerate(times)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    worked = worked_seconds(folder, began=began, ended=times[-1], steps=10)
    assert 0 <= worked <= START_SECONDS + 100


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_hides_no_hang(jump: timedelta) -> None:
    """A training that stands still is found although its steps seem to lie years apart."""
    times = [2.0 * n + (jump.total_seconds() if n > 5 else 0.0) for n in range(10)]
    assert patience_seconds(Stage.TRAIN, times, floor_seconds=600) <= 2000


@pytest.mark.parametrize("jump", JUMPS)
def test_nothing_ends_before_it_began(jump: timedelta, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written as the end is never earlier than the beginning."""
    began = now()

    class Jumped(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return began + jump

    monkeypatch.setattr(clock, "datetime", Jumped)
    assert clock.now(not_before=began) == max(began, began + jump)


def test_uptime_goes_on_whatever_the_time_of_day_is() -> None:
    """What durations between processes are told by, and the name of the machine's start."""
    first = uptime_seconds()
    assert 0 < first <= uptime_seconds()
    assert len(this_boot()) == 36


def test_the_newest_run_of_a_job_is_the_one_that_was_claimed_last(tmp_path: Path) -> None:
    """After a clock was put back, a job's name still means its newest run; a torn record is old."""
    outputs = Outputs(tmp_path)
    ids = {
        1: "20261123T220000Z-aaaa",
        2: "20261123T235959Z-bbbb",  # claimed while the clock was ahead
        3: "20261123T221000Z-cccc",
        0: "20261123T235959Z-dddd",  # its record is torn
    }
    for sequence, run_id in ids.items():
        run = outputs.run("job", run_id)
        run.root.mkdir(parents=True)
        record = RunRecord(
            job="job",
            run_id=run_id,
            state=State.SUCCEEDED,
            file_name="job.yaml",
            sequence=sequence,
            created_at=now(),
            spec_sha256="",
        )
        write_record(run.record, record)
    outputs.run("job", ids[0]).record.write_text("{")
    assert find_run(outputs, "job").run_id == ids[3]
    assert find_run(outputs, "bbbb").run_id == ids[2]
