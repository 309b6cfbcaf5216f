"""Ask the daemon for something about a run, and print what was asked: cancel, evaluate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runner.commands.find_run import find_run
from runner.commands.options import print_json
from runner.commands.which_box import hint
from runner.contract.layout import Outputs, RunFolder


def ask_daemon(
    name: str,
    outputs_dir: Path,
    *,
    ask: Callable[[Outputs, RunFolder], None],
    verb: str,
    then: str,
    as_json: bool,
) -> None:
    """Leave a request about a run and say so.

    Args:
        name: of the run, as the user gave it.
        outputs_dir: where results go.
        ask: leaves the request, or raises what speaks against it.
        verb: what is asked for.
        then: what shows when it is done; ``{run}`` is the run's id.
        as_json: for a script.
    """
    outputs = Outputs(outputs_dir)
    run = find_run(outputs, name)
    ask(outputs, run)
    if as_json:
        print_json({"job": run.job, "run_id": run.run_id, "requested": verb})
        return
    print(f"Asked to {verb} {run.job}/{run.run_id}; {then.format(run=run.run_id)}.")
    if said := hint(outputs):
        print(said)
