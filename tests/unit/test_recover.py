"""Turns what a dead daemon left into how long its attempt worked, and what is left of its time."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from runner.clock import now
from runner.contract.batch import BatchPlan
from runner.contract.checkpoints import sha256_of
from runner.contract.layout import Outputs, StageFolder
from runner.contract.record import Attempt, RunRecord
from runner.contract.settings import Settings
from runner.contract.stage_io import EvaluatePlan, SmallerPlan, TrainPlan, write_message
from runner.contract.states import Stage, State
from runner.daemon.stages.plans import make_plan
from runner.daemon.stages.resume_point import resume_point
from runner.daemon.start.close_attempts import closed_record
from runner.spec.read_spec import read_spec

PLAN = BatchPlan(per_device_batch_size=1, gradient_accumulation_steps=1)
TWO_DAYS, TEN_MINUTES = timedelta(days=2), timedelta(minutes=10)


def test_the_hours_that_the_box_was_off_are_not_the_runs(tmp_path: Path) -> None:
    """Of ``limits.hours`` only the work counts: a weekend without power costs none of it.

    Nor is a fast path tried again that had failed before the power went.
    """
    run = Outputs(tmp_path / "outputs").run("job", "20261123T221005Z-k3f9")
    started = now() - TWO_DAYS
    run.attempt(1).mkdir(parents=True)
    told = SmallerPlan(batch_plan=PLAN, left_fast_path=True)
    write_message(StageFolder(run.attempt(1)).smaller_plan, told)
    metrics = run.attempt(1) / "metrics.jsonl"
    metrics.write_text("")
    last_line = (started + TEN_MINUTES).timestamp()
    for written in run.attempt(1).iterdir():
        os.utime(written, (last_line, last_line))
    spec = read_spec(b"model: m\ndata: d.jsonl\nlimits: {hours: 1h}\n", file_name="job.yaml")
    open_one = Attempt(number=1, batch_plan=PLAN, started_at=started, first_step=1)
    record = RunRecord(
        job="job",
        run_id=run.run_id,
        state=State.TRAINING,
        file_name="job.yaml",
        created_at=started,
        spec_sha256="",
        total_steps=100,
        attempts=(open_one,),
    )
    revived = closed_record(run, record, resume_point(run, sha256_of))
    (closed,) = revived.attempts
    assert closed.ended_at is not None
    assert abs(closed.ended_at - closed.started_at - TEN_MINUTES) < timedelta(seconds=1)
    settings = Settings(
        jobs_dir=tmp_path / "jobs", outputs_dir=tmp_path / "outputs", models_dir=tmp_path / "models"
    )
    again = revived.but(attempts=(closed, open_one.model_copy(update={"number": 2})))
    plan = make_plan(Stage.TRAIN, settings=settings, run=run, record=again, spec=spec)
    assert isinstance(plan, TrainPlan)
    assert plan.seconds_left is not None
    assert abs(plan.seconds_left - 3000) < 1
    assert plan.fast is False
    shared = again.attempts[-1].model_copy(update={"shard_base": True})
    again = again.but(attempts=(closed, shared))
    plan_of_shared = make_plan(Stage.TRAIN, settings=settings, run=run, record=again, spec=spec)
    assert isinstance(plan_of_shared, TrainPlan)
    assert plan_of_shared.fast is None  # a base that is shared has no plain path
    for ranks, shard_base, wanted in ((2, True, 2), (2, False, 1), (1, False, 1)):
        last = shared.model_copy(update={"ranks": ranks, "shard_base": shard_base})
        after = again.but(attempts=(closed, last))
        found = make_plan(Stage.EVALUATE, settings=settings, run=run, record=after, spec=spec)
        assert isinstance(found, EvaluatePlan)
        assert found.base_shared_by == wanted  # no card holds it then, either
    assert plan.base_cache == str(settings.outputs.base_cache.absolute())
    assert plan.leave_bytes >= settings.min_free_bytes
