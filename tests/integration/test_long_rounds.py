"""Gigabytes are hashed beside the daemon's loop: everybody else is served meanwhile."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from daemon_box import Box, attempt_of, wait_until

from runner.contract.checkpoints import MANIFEST, CheckpointFile, Manifest
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.record import RunRecord
from runner.contract.requests import leave_request
from runner.contract.states import State
from runner.daemon.stages.await_answers import CHECKING
from runner.daemon.stages.process import PID_FILE

LARGE_BYTES = 1024**3
ZEROS = "49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14"
"""SHA-256 of a gibibyte of zeros, from ``head -c 1G /dev/zero | sha256sum``."""


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """An empty box."""
    return Box(tmp_path)


def large_checkpoint(run: RunFolder, step: int) -> None:
    """Leave a checkpoint of gigabytes: they are really read, though they take no room."""
    folder = run.checkpoint(step)
    folder.mkdir(parents=True)
    with (folder / "weights").open("wb") as file:
        file.truncate(LARGE_BYTES)
    files = {"weights": CheckpointFile(sha256=ZEROS, bytes=LARGE_BYTES)}
    (folder / MANIFEST).write_text(Manifest(step=step, files=files).model_dump_json())


def of(box: Box, job: str) -> RunRecord:
    """Read the newest record of a job."""
    return [record for record in box.records() if record.job == job][-1]


def trains(box: Box, job: str) -> bool:
    """Whether a job's child is at work."""
    return any(r.job == job and r.state is State.TRAINING for r in box.records())


def is_being_checked(record: RunRecord) -> bool:
    """Whether its record says that its checkpoint is being checked."""
    return record.waiting is not None and record.waiting.reason == CHECKING


def run_of(box: Box, job: str) -> RunFolder:
    """Find the run folder of a job."""
    return box.outputs.run(job, of(box, job).run_id)


def kill_the_child(run: RunFolder) -> None:
    """Kill the first attempt, as anybody might, once the stand-in has counted it."""
    wait_until((run.root / "tries-train").exists, seconds=60)
    pid_file = StageFolder(attempt_of(run, 1)).root / PID_FILE
    wait_until(lambda: pid_file.exists() and len(pid_file.read_text().split()) == 3)
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)


def test_a_large_checkpoint_is_checked_while_others_are_answered(box: Box) -> None:
    """Its run says that it is being checked; a spec dropped then is answered before that is over.

    Then the run goes on from that checkpoint.
    """
    box.drop("large", train=["hang", "ok"])
    with box.watching():
        wait_until(lambda: trains(box, "large"), seconds=60)
        run = run_of(box, "large")
        large_checkpoint(run, 3)
        kill_the_child(run)
        wait_until(lambda: is_being_checked(of(box, "large")), seconds=60)
        box.drop("next")
        wait_until(lambda: list((box.jobs / "queued").glob("next--*.txt")), seconds=60)
        record = of(box, "large")
        assert [attempt.outcome for attempt in record.attempts] == [None]
        assert is_being_checked(record)
        wait_until(lambda: of(box, "large").state is State.SUCCEEDED, seconds=240)
    record = of(box, "large")
    assert record.attempts[0].last_step == 3
    assert record.attempts[1].first_step == 4
    assert record.waiting is None


def test_a_run_that_is_cancelled_meanwhile_is_cancelled_once_its_checkpoint_is_known(
    box: Box,
) -> None:
    """Its answer names the checkpoint that is kept."""
    box.drop("large", train=["hang"])
    with box.watching():
        wait_until(lambda: trains(box, "large"), seconds=60)
        run = run_of(box, "large")
        large_checkpoint(run, 3)
        leave_request(box.outputs, "cancel", run_id=run.run_id)
        wait_until(lambda: of(box, "large").state is State.CANCELLED, seconds=240)
    error = of(box, "large").error
    assert error is not None
    assert f"outputs/large/{run.run_id}/checkpoints/step-00000003/" in error.message


def test_a_start_with_a_large_checkpoint_serves_others_meanwhile(box: Box) -> None:
    """A daemon that was killed left an attempt open: the next one closes it beside its loop.

    A spec dropped then is answered before the checkpoint is known to be whole.
    """
    box.drop("large", train=["hang", "ok"])
    with box.watching() as daemon:
        wait_until(lambda: trains(box, "large"), seconds=60)
        run = run_of(box, "large")
        wait_until((run.root / "tries-train").exists, seconds=60)
        large_checkpoint(run, 3)
        daemon.kill()
        daemon.wait()
    with box.watching():
        wait_until(lambda: is_being_checked(of(box, "large")), seconds=60)
        box.drop("next")
        wait_until(lambda: list((box.jobs / "queued").glob("next--*.txt")), seconds=60)
        record = of(box, "large")
        assert [attempt.outcome for attempt in record.attempts] == [None]
        assert is_being_checked(record)
        wait_until(lambda: of(box, "large").state is State.SUCCEEDED, seconds=240)
    first, second = of(box, "large").attempts
    assert (first.outcome, first.last_step, second.first_step) == ("killed", 3, 4)
