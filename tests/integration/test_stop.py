"""Turns a stop or a cancellation into a run that lost nothing it had trained."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from daemon_box import Box, wait_until

from runner.contract.checkpoints import verified
from runner.contract.requests import leave_request
from runner.contract.states import State


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """An empty box."""
    return Box(tmp_path)


def _hangs(box: Box, attempt: str = "attempts/01-*") -> bool:
    return bool(list(box.outputs.root.glob(f"*/*/{attempt}/hanging")))


def test_a_second_sigterm_stops_at_once(box: Box) -> None:
    """Whoever cannot wait for the grace period loses nothing but the steps since a checkpoint."""
    box.drop("contracts", train=["train 5 then stubborn", "ok"])
    with box.watching(grace_seconds=600) as daemon:
        wait_until(lambda: _hangs(box))
        daemon.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping: " in box.outputs.daemon_log.read_text())
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=10) == 0
    (attempt,) = box.record().attempts
    assert (attempt.outcome, attempt.last_step) == ("interrupted", 5)
    assert box.record().state is State.INTERRUPTED
    assert box.once().returncode == 0
    assert [a.last_step for a in box.record().attempts] == [5, 8]


def _cancelled_with_its_checkpoint(box: Box, step: int) -> None:
    (run,) = box.outputs.runs()
    kept = f"checkpoints/step-{step:08d}"
    assert verified(run.root / kept)
    error = box.record().error
    assert error is not None
    where = f"outputs/contracts/{run.run_id}/{kept}/"
    assert where in error.message
    assert (
        where
        in wait_until(lambda: [p.read_text() for p in (box.jobs / "cancelled").glob("*.txt")])[0]
    )


def test_a_cancelled_run_keeps_its_last_adapter_checkpoint(box: Box) -> None:
    """Cancelling by command while it trains: what it learned stays, and the answer says where."""
    box.drop("contracts", train=["train 5 then hang"])
    with box.watching(rescan_seconds=0.2):
        wait_until(lambda: _hangs(box))
        leave_request(box.outputs, "cancel", run_id=box.record().run_id)
        wait_until(lambda: box.in_state(State.CANCELLED))
        _cancelled_with_its_checkpoint(box, 5)


def test_deleting_the_spec_of_a_running_job_keeps_it_too(box: Box) -> None:
    """Cancelling from the share loses no more than cancelling by command."""
    box.drop("contracts", train=["train 5 then hang"])
    with box.watching(rescan_seconds=0.2):
        wait_until(lambda: _hangs(box))
        (spec,) = wait_until(lambda: list((box.jobs / "running").glob("*.yaml")))
        spec.unlink()
        wait_until(lambda: box.in_state(State.CANCELLED))
        _cancelled_with_its_checkpoint(box, 5)


def test_deleting_a_queued_spec_cancels_it(box: Box) -> None:
    """A job that waits for its turn never runs; its spec lies beside its answer afterwards."""
    box.drop("first", train=["train 2 then hang"])
    with box.watching(rescan_seconds=0.2):
        wait_until(lambda: _hangs(box))
        box.drop("second")
        wait_until(lambda: len(box.records()) == 2)  # before that there is nothing to cancel
        (spec,) = (box.jobs / "queued").glob("second*.yaml")
        spec.unlink()
        wait_until(lambda: [r.state for r in box.records()] == [State.TRAINING, State.CANCELLED])
    assert not box.records()[1].attempts
    assert "Nothing was trained yet" in box.answer("cancelled")
    (answer,) = (box.jobs / "cancelled").glob("second*.txt")
    assert answer.with_suffix("").read_text() == "model: m\ndata: second.jsonl\n"


def test_a_cancellation_outlives_a_power_cut(box: Box) -> None:
    """Cancelled by command, and the box went down before its child had left: still cancelled."""
    box.drop("contracts", train=["train 5 then stubborn", "ok"])
    with box.watching(rescan_seconds=0.2, grace_seconds=600) as daemon:
        wait_until(lambda: _hangs(box))
        leave_request(box.outputs, "cancel", run_id=box.record().run_id)
        wait_until(lambda: "to be cancelled" in box.outputs.daemon_log.read_text())
        daemon.kill()
        daemon.wait()
    assert box.record().state is State.TRAINING
    assert box.once().returncode == 1
    assert box.in_state(State.CANCELLED)
    assert not list(box.outputs.requests.iterdir())
    _cancelled_with_its_checkpoint(box, 5)
