"""`runner cancel`: asks the daemon to stop a run."""

from __future__ import annotations

from runner.commands.find_run import find_run
from runner.commands.options import OUTPUTS, AsJson, OutputsDir, Run, print_json
from runner.commands.which_box import hint
from runner.contract.layout import Outputs, RunFolder
from runner.contract.record import read_record
from runner.contract.requests import leave_request
from runner.errors import RunnerError


def cancel(outputs: Outputs, run: RunFolder) -> None:
    """Ask the daemon to cancel a run.

    Raises:
        RunnerError: it has ended already.
    """
    state = read_record(run.record).state
    if state.is_final:
        raise RunnerError(
            f"{run.job}/{run.run_id} has ended already: {state.value}",
            advice="`runner status` lists the runs that can be cancelled.",
        )
    leave_request(outputs, "cancel", run_id=run.run_id)


def command(name: Run, outputs_dir: OutputsDir = OUTPUTS, as_json: AsJson = False) -> None:
    """Ask the daemon to cancel a run.

    When no daemon runs, the next one does it first.

    \b
    Example:
        runner cancel contracts
    """
    outputs = Outputs(outputs_dir)
    run = find_run(outputs, name)
    cancel(outputs, run)
    if as_json:
        print_json({"job": run.job, "run_id": run.run_id, "requested": "cancel"})
    else:
        print(f"Asked to cancel {run.job}/{run.run_id}; `runner status` shows when it is done.")
        if said := hint(outputs):
            print(said)
