"""A container that is stopped, then killed, in the middle of training: every step counts once."""

from __future__ import annotations

from pathlib import Path

import pytest
from container_box import ContainerBox, wait_until

from runner.contract.record import Attempt, RunRecord

STEPS, EVERY = 40, 5  # optimizer steps of the run, and from checkpoint to checkpoint


@pytest.fixture(scope="module")
def stopped_at(box: ContainerBox, model: Path) -> int:
    """The step at which `docker compose stop` found it."""
    box.put_model(model)
    box.drop("walls", f"max_steps: {STEPS}, effective_batch_size: 8, save_steps: {EVERY}")
    box.wait_for_step("walls", attempt=1, step=EVERY + 2)
    box.compose("stop")
    assert box.runner.attrs["State"]["ExitCode"] == 0
    return max(box.steps("walls", 1))


@pytest.fixture(scope="module")
def killed_at(box: ContainerBox, stopped_at: int) -> int:
    """The step at which `docker kill` found what `up` had resumed."""
    box.up()
    box.wait_for_step("walls", attempt=2, step=stopped_at + EVERY + 1)
    box.runner.kill()
    wait_until(lambda: box.runner.status == "exited")
    return max(box.steps("walls", 2))


@pytest.fixture(scope="module")
def finished(box: ContainerBox, killed_at: int) -> RunRecord:
    """The run at its end, after another `up`."""
    assert killed_at < STEPS
    box.up()
    return box.wait_for_end("walls")


def span(attempt: Attempt) -> tuple[int | None, int | None]:
    return attempt.first_step, attempt.last_step


def test_stop_leaves_a_checkpoint_of_the_last_step(finished: RunRecord, stopped_at: int) -> None:
    """`docker compose stop` costs no step: `up` goes on with the next one."""
    first, second, _ = finished.attempts
    assert first.outcome == "interrupted"
    assert span(first) == (1, stopped_at)
    assert second.first_step == stopped_at + 1


def test_kill_costs_the_steps_since_the_last_checkpoint(
    finished: RunRecord, stopped_at: int, killed_at: int
) -> None:
    """`docker kill` leaves no time for one: the run goes on from the newest that was there."""
    _, second, third = finished.attempts
    newest = killed_at - killed_at % EVERY
    assert newest > stopped_at
    # A step may have ended, and its checkpoint not, when the signal came.
    assert span(second) in {(stopped_at + 1, newest), (stopped_at + 1, newest - EVERY)}
    assert third.first_step == (second.last_step or 0) + 1


def test_the_curve_has_every_step_once(box: ContainerBox, finished: RunRecord) -> None:
    """Each attempt's lines within its own steps are the run's: 1 to N."""
    curve = [
        step
        for attempt in finished.attempts
        for step in box.steps("walls", attempt.number)
        if (attempt.first_step or 0) <= step <= (attempt.last_step or 0)
    ]
    assert curve == list(range(1, STEPS + 1))
