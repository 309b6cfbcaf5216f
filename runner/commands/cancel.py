"""Turns a wish to stop a run into a request that the daemon carries out."""

from __future__ import annotations

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
        raise RunnerError(f"{run.job}/{run.run_id} has ended already: {state.value}")
    leave_request(outputs, "cancel", run_id=run.run_id)
