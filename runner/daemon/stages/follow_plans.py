"""A smaller batch plan that an attempt chose by itself is written into its run's record."""

from __future__ import annotations

from runner.contract.batch import describe_change
from runner.contract.layout import StageFolder
from runner.contract.stage_io import SmallerPlan, read_message
from runner.contract.states import TRAINS
from runner.daemon.change_run import change
from runner.daemon.daemon import Daemon
from runner.daemon.stages.plans import stage_folder
from runner.errors import DamagedError


def smaller_plan(folder: StageFolder) -> SmallerPlan | None:
    """Read what an attempt goes on with; None: the plan that it was given."""
    try:
        return read_message(folder.smaller_plan, SmallerPlan)
    except (OSError, DamagedError):
        return None


def follow_plans(daemon: Daemon, at: float) -> None:
    """Tell of a smaller plan while the attempt goes on, not hours later."""
    for live in daemon.book.runs.values():
        if live.child is None or live.stage not in TRAINS or live.rests_until > at:
            continue
        before = live.record.batch_plan
        folder = StageFolder(stage_folder(live.run, live.stage, live.record))
        told = smaller_plan(folder)
        if before is not None and told is not None and (after := told.batch_plan) != before:
            with daemon.isolating(live, at):
                change(daemon, live, batch_plan=after)
                daemon.say(live, f"{live.record.job}: {describe_change(before, after)}")
