"""`runner cancel`: asks the daemon to stop a run."""

from __future__ import annotations

from runner.commands.ask_daemon import ask_daemon
from runner.commands.options import OUTPUTS, AsJson, OutputsDir, Run
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
    then = "`runner status` shows when it is done"
    ask_daemon(name, outputs_dir, ask=cancel, verb="cancel", then=then, as_json=as_json)
