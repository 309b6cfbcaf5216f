"""The machine goes down under a job time and again: how long it rests, and who goes before it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runner.contract.batch import BatchPlan
from runner.contract.checkpoints import sha256_of
from runner.contract.layout import Outputs
from runner.contract.record import Attempt, Falls, RunRecord
from runner.contract.states import Stage, State
from runner.daemon.queue import in_order
from runner.daemon.stages.falls import after_fall, is_suspect, rest_left_seconds, rest_seconds
from runner.daemon.stages.resume_point import resume_point
from runner.daemon.start.close_attempts import closed_record, is_open
from runner.daemon.start.recover import revive

FOUND = datetime(2026, 11, 26, 9, 0, tzinfo=UTC)
MINUTE, HOUR = 60.0, 3600.0
PLAN = BatchPlan(per_device_batch_size=1, gradient_accumulation_steps=1)


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        (1, 0.0),
        (2, 0.0),
        (3, 10 * MINUTE),
        (4, 40 * MINUTE),
        (5, 160 * MINUTE),
        (6, 640 * MINUTE),
        (7, 24 * HOUR),
        (10**9, 24 * HOUR),
    ],
)
def test_a_job_rests_longer_after_each_fall(times: int, seconds: float) -> None:
    """Twice it is tried again at once; from the third time on it rests, a day at most."""
    assert rest_seconds(Falls(times=times, last_at=FOUND)) == seconds


@pytest.mark.parametrize(
    ("at", "left"),
    [
        (FOUND, 10 * MINUTE),
        (FOUND + timedelta(minutes=4), 6 * MINUTE),
        (FOUND + timedelta(minutes=11), 0.0),
        (FOUND + timedelta(days=400), 0.0),
        (FOUND - timedelta(days=400), 10 * MINUTE),
    ],
)
def test_a_clock_that_jumped_makes_no_job_rest_longer(at: datetime, left: float) -> None:
    """Put forward, it is tried sooner; put back, it rests once more from then on, and no longer."""
    assert rest_left_seconds(Falls(times=3, last_at=FOUND), at=at) == left


def test_a_job_that_never_fell_does_not_rest() -> None:
    """Nor does one of an older runner, whose record says nothing of it."""
    assert rest_left_seconds(None, at=FOUND) == 0.0
    assert not is_suspect(None)


def record(job: str, **fields: object) -> RunRecord:
    """Make a record."""
    given = {
        "job": job,
        "run_id": f"20261126T090000Z-{job}",
        "state": State.QUEUED,
        "file_name": f"{job}.yaml",
        "created_at": FOUND,
        "spec_sha256": "",
        **fields,
    }
    return RunRecord.model_validate(given)


def test_it_goes_to_the_back_of_the_queue() -> None:
    """Whatever its priority, and although it was begun: the others get their turn first."""
    fell = Falls(times=3, last_at=FOUND)
    queue = in_order(
        [
            record("fell", state=State.INTERRUPTED, priority=9, falls=fell, sequence=1),
            record("fresh", sequence=3),
            record("twice", state=State.INTERRUPTED, falls=Falls(times=2, last_at=FOUND)),
        ]
    )
    assert [one.job for one in queue] == ["twice", "fresh", "fell"]


def attempt(**fields: object) -> Attempt:
    """Make an attempt that was open when the machine went down."""
    return Attempt.model_validate(
        {"number": 1, "batch_plan": PLAN, "started_at": FOUND, "first_step": 1, **fields}
    )


@pytest.mark.parametrize(
    ("fields", "another_trained", "times", "tries"),
    [
        ({"state": State.TRAINING, "attempts": (attempt(),)}, True, 1, None),
        ({"state": State.PREPARING, "tries": {"prepare": 2}}, False, 1, 1),
        # Beside another one that trained: that one is suspected.
        ({"state": State.PREPARING, "tries": {"prepare": 2}}, True, None, 1),
        (
            {"state": State.EXPORTING, "next_stage": Stage.EXPORT, "tries": {"export": 1}},
            True,
            1,
            0,
        ),
        (
            {
                "state": State.EVALUATING,
                "next_stage": Stage.EVALUATE,
                "tries": {"export": 1, "evaluate": 1},
            },
            True,
            1,
            1,
        ),
        (
            {
                "state": State.EVALUATING,
                "next_stage": Stage.HAND_OVER,
                "tries": {"export": 1, "hand-over": 1},
            },
            True,
            1,
            1,
        ),
        # A small run of a learning rate was at work, or waits for its next try.
        ({"state": State.TRAINING, "next_stage": Stage.RATES, "tries": {"rates": 2}}, True, 1, 1),
        (
            {"state": State.INTERRUPTED, "next_stage": Stage.RATES, "tries": {"rates": 2}},
            True,
            None,
            2,
        ),
        # Between two stages nothing was at work.
        ({"state": State.EXPORTING, "next_stage": Stage.EXPORT}, True, None, None),
        ({"state": State.INTERRUPTED, "attempts": (attempt(outcome="killed"),)}, True, None, None),
    ],
)
def test_what_the_machine_went_down_under_is_counted(
    tmp_path: Path,
    fields: dict[str, object],
    another_trained: bool,  # noqa: FBT001 - a row of the table
    times: int | None,
    tries: int | None,
) -> None:
    """It is found open at the next start; its own tries are not used up by that."""
    run = Outputs(tmp_path).run("job", "20261126T090000Z-k3f9")
    run.root.mkdir(parents=True)
    given = record("job", **fields)
    found = revive(given, another_trained=another_trained)
    if is_open(given):
        assert found == given
        found = closed_record(run, given, resume_point(run, sha256_of))
    assert (found.falls.times if found.falls else None) == times
    if tries is not None:
        stage = Stage.PREPARE if fields["state"] is State.PREPARING else Stage.EXPORT
        if fields.get("next_stage") is Stage.RATES:
            stage = Stage.RATES
        assert found.tries[stage.value] == tries


def test_each_further_one_is_counted() -> None:
    """And its time is that at which it was found."""
    later = FOUND + timedelta(hours=1)
    assert after_fall(Falls(times=3, last_at=FOUND), at=later) == Falls(times=4, last_at=later)
