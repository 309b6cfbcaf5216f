"""A clock that jumps under a real daemon: nothing is rejected, ended early, reordered or lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from daemon_box import WrongClockBox, attempt_of, wait_until

from runner.contract.layout import StageFolder
from runner.contract.states import State
from runner.daemon.stages.process import PID_FILE
from runner.exit_codes import ExitCode

HOUR, YEAR = 3600, 365 * 24 * 3600
JUMPS = (2 * HOUR, -2 * HOUR, 0, YEAR)
"""By how much the clock is wrong, one after the other: set forward, back, right, and far ahead."""


@pytest.fixture
def box(tmp_path: Path) -> WrongClockBox:
    """An empty box."""
    return WrongClockBox(tmp_path)


def test_jumps_while_one_trains_and_one_waits_for_data(box: WrongClockBox) -> None:
    """An hour of patience and an hour of training are not over when the clock says so.

    Who was claimed first trains first, whatever the time in their names.
    """
    box.drop("trains", train=["train 3 then hang", "ok"])
    box.drop_spec("trains", "limits: {hours: 1}\n")
    with box.watching(data_wait_seconds=HOUR):
        wait_until(lambda: list(box.outputs.root.glob("trains/*/attempts/01-*/hanging")))
        box.drop_spec("waits")
        wait_until(lambda: "waits" in box.claimed() and box.of("waits").waiting)
        order = ["trains", "waits"]
        for number, jump in enumerate(JUMPS):
            box.wrong_by(jump)
            box.drop(f"job-{number}")
            order.append(f"job-{number}")
            wait_until(lambda: box.claimed() == order)
        states = {record.job: record.state for record in box.records()}
        assert (states["trains"], states["waits"]) == (State.TRAINING, State.QUEUED)
        assert not any(state.is_final for state in states.values())
        run = box.outputs.run("trains", box.of("trains").run_id)
        os.kill(int((attempt_of(run, 1) / PID_FILE).read_text().split()[0]), signal.SIGKILL)
        (box.jobs / "waits.jsonl").write_text("{}")
        wait_until(lambda: {r.state for r in box.records()} == {State.SUCCEEDED})
        wait_until(lambda: "Nothing needs a person" in box.status())
    assert box.claimed() == order
    left = json.loads(StageFolder(attempt_of(run, 2)).plan.read_bytes())["seconds_left"]
    assert HOUR - 300 < left <= HOUR
    first, second = box.of("trains").attempts
    assert (first.last_step, second.first_step, second.last_step) == (3, 4, 8)

    def began(job: str) -> int:
        """Tell when a job's training began, by the file system, whose clock did not jump."""
        plan = StageFolder(attempt_of(box.outputs.run(job, box.of(job).run_id), 1)).plan
        return plan.stat().st_mtime_ns

    jobs = [job for job in order if job.startswith("job-")]
    assert sorted(jobs, key=began) == jobs
    for record in box.records():
        assert record.ended_at is not None
        assert record.started_at is not None
        assert record.created_at <= record.started_at <= record.ended_at


def test_a_later_success_clears_a_rejection_whatever_the_clock_said(box: WrongClockBox) -> None:
    """The rejected run's name says next year; the job's next run is claimed after it all the same.

    A restart tells the same from the records.
    """
    box.wrong_by(YEAR)
    box.drop("contracts", prepare=[str(int(ExitCode.BAD_INPUT))])
    with box.watching():
        wait_until(lambda: "was rejected" in box.status())
        box.wrong_by(0)
        box.drop("contracts")
        wait_until(lambda: box.of("contracts").state is State.SUCCEEDED)
        wait_until(lambda: "Nothing needs a person" in box.status())
    rejected, succeeded = box.records()
    assert rejected.run_id > succeeded.run_id
    with box.watching():
        wait_until(box.outputs.heartbeat.exists)
        box.drop("other")
        wait_until(lambda: "other" in box.status())
        assert "was rejected" not in box.status()


def test_an_earlier_success_clears_no_rejection_whatever_the_clock_said(
    box: WrongClockBox,
) -> None:
    """The run that succeeded has the later name, and was claimed before."""
    box.wrong_by(YEAR)
    box.drop("contracts")
    with box.watching():
        wait_until(lambda: box.records() and box.of("contracts").state is State.SUCCEEDED)
        wait_until(lambda: list((box.jobs / "done").glob("contracts--*.txt")))
        box.wrong_by(0)
        box.drop("contracts", prepare=[str(int(ExitCode.BAD_INPUT))])
        wait_until(lambda: len(box.records()) == 2 and box.records()[1].state is State.REJECTED)
        wait_until(lambda: "was rejected" in box.status(), seconds=30)
