"""Turns a batch plan that an attempt made smaller by itself into what its run's record says."""

from __future__ import annotations

import json

from pydantic import ValidationError

from runner.contract.batch import BatchPlan, describe_change
from runner.contract.layout import StageFolder
from runner.contract.states import Stage
from runner.daemon.change_run import change
from runner.daemon.daemon import Daemon
from runner.daemon.stages.plans import stage_folder


def plan_in_force(folder: StageFolder) -> BatchPlan | None:
    """Read the plan that an attempt goes on with; None: the one that it was given."""
    try:
        return BatchPlan.model_validate(json.loads(folder.batch_plan.read_bytes()))
    except (OSError, ValueError, ValidationError):
        return None


def follow_plans(daemon: Daemon) -> None:
    """Tell of a smaller plan while the attempt goes on, not hours later."""
    for live in daemon.book.runs.values():
        if live.child is None or live.stage is not Stage.TRAIN:
            continue
        before = live.record.batch_plan
        folder = StageFolder(stage_folder(live.run, Stage.TRAIN, live.record))
        after = plan_in_force(folder)
        if before is not None and after is not None and after != before:
            change(daemon, live, batch_plan=after)
            daemon.say(live, f"{live.record.job}: {describe_change(before, after)}")
