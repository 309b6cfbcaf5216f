"""`runner promote`: makes a run's adapter its job's `current`."""

from __future__ import annotations

import getpass
import os
from typing import Any

from runner.commands.find_run import find_run
from runner.commands.options import OUTPUTS, AsJson, OutputsDir, Run, print_json
from runner.commands.take_turn import take_turn
from runner.contract.layout import Outputs
from runner.contract.promotions import check_promotable, current_run, promote
from runner.notices.leave import leave_change


def who_asks() -> str:
    """Name the person at the keyboard, for the history."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as containers have them
        return f"user {os.getuid()}"


def command(name: Run, outputs_dir: OutputsDir = OUTPUTS, as_json: AsJson = False) -> None:
    """Put a run's adapter into use.

    outputs/JOB/current leads to it. The daemon does it; where none runs, it is done at once.
    `runner rollback` takes it back.

    \b
    Example:
        runner promote contracts
    """
    outputs = Outputs(outputs_dir)
    run = find_run(outputs, name)
    check_promotable(run)
    facts: dict[str, Any] = {"job": run.job, "run_id": run.run_id}
    if current_run(outputs, run.job) == run.run_id:
        said = f"{run.job}/{run.run_id} is in use already."
    else:
        lock = take_turn(outputs, "promote", job=run.job, run_id=run.run_id, by=who_asks())
        if lock is None:
            facts["requested"] = "promote"
            said = f"Asked to put {run.job}/{run.run_id} into use; the box does it at once."
        else:
            try:
                promote(outputs, run, why=f"{who_asks()} asked for it", by=who_asks())
                leave_change(outputs, run.job)
            finally:
                lock.release()
            said = f"outputs/{run.job}/current leads to {run.run_id}."
    print_json(facts) if as_json else print(said)
