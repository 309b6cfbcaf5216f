"""`runner rollback`: makes current again what was so before."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from runner.commands.find_run import find_job
from runner.commands.options import OUTPUTS, AsJson, OutputsDir, print_json
from runner.commands.promote import who_asks
from runner.commands.take_turn import take_turn
from runner.contract.layout import Outputs
from runner.contract.promotions import current_run, roll_back, target_of_rollback
from runner.notices.leave import leave_change


def command(
    job: Annotated[str, typer.Argument(help="The job's name.")],
    outputs_dir: OutputsDir = OUTPUTS,
    as_json: AsJson = False,
) -> None:
    """Take a job's last promotion back.

    The adapter that was in use before is so again. The daemon does it; where none runs, it is done
    at once.

    \b
    Example:
        runner rollback contracts
    """
    outputs = Outputs(outputs_dir)
    job = find_job(outputs, job)
    target = target_of_rollback(outputs, job)
    facts: dict[str, Any] = {"job": job, "run_id": target, "before": current_run(outputs, job)}
    lock = take_turn(outputs, "rollback", job=job, by=who_asks())
    if lock is None:
        facts["requested"] = "rollback"
        said = f"Asked to put {job}/{target} into use again; the box does it at once."
    else:
        try:  # somebody else may have changed it meanwhile
            facts["before"] = current_run(outputs, job)
            facts["run_id"] = roll_back(outputs, job, by=who_asks())
            leave_change(outputs, job)
        finally:
            lock.release()
        said = f"outputs/{job}/current leads to {facts['run_id']} again."
    print_json(facts) if as_json else print(said)
