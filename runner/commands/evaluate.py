"""`runner evaluate`: asks the daemon to measure a run's adapter again."""

from __future__ import annotations

from runner.commands.ask_daemon import ask_daemon
from runner.commands.options import OUTPUTS, AsJson, OutputsDir, Run
from runner.contract.layout import Outputs, RunFolder
from runner.contract.record import read_record
from runner.contract.requests import leave_request
from runner.contract.retention import check_cleared
from runner.contract.states import State
from runner.errors import RunnerError


def evaluate(outputs: Outputs, run: RunFolder) -> None:
    """Ask the daemon to evaluate a run.

    Raises:
        RunnerError: it has no adapter, or is not at its end yet.
    """
    record = read_record(run.record)
    state, name = record.state, f"{run.job}/{run.run_id}"
    if not state.is_final:
        raise RunnerError(
            f"{name} is not over yet: {state.value}",
            advice="Its evaluation comes by itself, after the training.",
        )
    if record.erased is not None:
        raise RunnerError(
            f"The held-out rows of {name} were erased on {record.erased.at:%Y-%m-%d}",
            advice="There is nothing to measure it on; drop its spec and data again.",
        )
    check_cleared(record)
    if state is not State.SUCCEEDED or not (run.adapter / "adapter_model.safetensors").is_file():
        raise RunnerError(
            f"{name} has no adapter that could be evaluated: {state.value}",
            advice="`runner status --all` lists the runs; those that succeeded have one.",
        )
    leave_request(outputs, "evaluate", run_id=run.run_id)


def command(name: Run, outputs_dir: OutputsDir = OUTPUTS, as_json: AsJson = False) -> None:
    """Ask the daemon to measure a run's adapter again.

    It begins as soon as the card is free; what was measured before stands until it is over. When no
    daemon runs, the next one does it.

    \b
    Example:
        runner evaluate contracts
    """
    then = "`runner show {run}` shows the verdict"
    ask_daemon(name, outputs_dir, ask=evaluate, verb="evaluate", then=then, as_json=as_json)
