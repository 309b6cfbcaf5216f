"""`runner erase`: removes the rows of a run or of a whole job, and all that was made from them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from runner.commands.find_run import find_run, parted, says_something
from runner.commands.options import OUTPUTS, AsJson, OutputsDir, print_json
from runner.commands.promote import who_asks
from runner.contract.erase import NotErasableError, check_erasable, erase
from runner.contract.layout import Outputs, RunFolder, job_name
from runner.contract.requests import leave_request
from runner.errors import BusyError, RunnerError
from runner.files.lock import Lock


def runs_named(outputs: Outputs, name: str) -> tuple[list[RunFolder], bool]:
    """Find all runs of a job, or the one run that a name stands for; and whether it is a job.

    Raises:
        NoSuchRunError: there is none.
    """
    within, last = parted(outputs, name)
    jobs = {folder.name for folder in outputs.job_folders()}
    names = (last, job_name(last)) if says_something(last) and not within else ()
    job = next((one for one in names if one in jobs), "")
    of_job = outputs.runs_of(job) if job else []
    return (of_job, True) if of_job else ([find_run(outputs, name)], False)


def confirm(runs: Sequence[RunFolder], *, with_adapter: bool) -> None:
    """Ask the person at the keyboard, since nothing brings it back.

    Raises:
        RunnerError: nobody is there to ask, or the answer is no.
    """
    which = f"{runs[0].job}/{runs[0].run_id}"
    if len(runs) > 1:
        which = f"{len(runs)} runs of {runs[0].job}, {runs[0].run_id} to {runs[-1].run_id}"
    what = "rows, answers and the adapter" if with_adapter else "rows and answers"
    if not sys.stdin.isatty():
        raise RunnerError(
            f"This would erase {what} of {which}, and nothing brings them back",
            advice="Say so with --yes.",
        )
    if not typer.confirm(f"Erase {what} of {which}? Nothing brings them back."):
        raise RunnerError("Nothing was erased", advice="Answer y, or say so with --yes.")


def _erasable(
    outputs: Outputs, runs: Sequence[RunFolder], *, with_adapter: bool, whole_job: bool
) -> tuple[list[RunFolder], dict[str, RunnerError]]:
    """Part what can be erased from what cannot: a damaged run does not keep the others' rows.

    Raises:
        RunnerError: none can be erased.
    """
    can, cannot = [], {}
    for run in runs:
        try:
            check_erasable(outputs, run, with_adapter=with_adapter, whole_job=whole_job)
            can.append(run)
        except NotErasableError:
            raise  # it is under way, or in use: a person decides about that first
        except (RunnerError, OSError):
            cannot[run.run_id] = RunnerError(
                f"{run.job}/{run.run_id}, whose run.json cannot be read",
                advice=f"To erase it, delete its folder outputs/{run.job}/{run.run_id}/ and its "
                "files under jobs/.",
            )
    if not can:
        raise next(iter(cannot.values()))
    return can, cannot


def command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RUN|JOB", help="A job's name (all its runs), a run id, or its end."
        ),
    ],
    with_adapter: Annotated[
        bool, typer.Option("--with-adapter", help="The adapter, too: it may repeat what it read.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    outputs_dir: OutputsDir = OUTPUTS,
    as_json: AsJson = False,
) -> None:
    """Erase the rows of a run, and what was made from them.

    Copied data, tokens, checkpoints, answers and pages go; record, log and loss curve stay, and the
    adapter does unless --with-adapter is given. The files under jobs/ that you dropped are yours:
    delete them there. The daemon does it; where none runs, it is done at once.

    \b
    Example:
        runner erase contracts --yes
    """
    outputs = Outputs(outputs_dir)
    runs, whole_job = runs_named(outputs, name)
    how = {"with_adapter": with_adapter, "whole_job": whole_job}
    runs, refused = _erasable(outputs, runs, **how)
    if not yes:
        confirm(runs, with_adapter=with_adapter)
    by = who_asks()
    for run in runs:  # also where it is done at once: pages beside the specs are the daemon's
        leave_request(outputs, "erase", job=run.job, run_id=run.run_id, by=by, **how)
    try:
        lock = Lock.take(outputs.lock, what=f"The outputs folder {outputs.root}")
    except BusyError:
        said = f"Asked to erase {len(runs)} of {runs[0].job}'s runs; the box does it at once."
    else:
        try:
            for run in runs:
                erase(outputs, run, by=by, **how)
        finally:
            lock.release()
        said = (
            f"Erased {len(runs)} of {runs[0].job}'s runs under outputs/; "
            "their pages in jobs/ go as soon as the box runs."
        )
    error = _not_erased(refused) if refused else None
    if as_json:
        left = {run_id: one.message for run_id, one in refused.items()}
        facts = {"job": runs[0].job, "runs": [run.run_id for run in runs], "by": by, "left": left}
        if error is not None:  # here and not as an answer of its own: a script reads one
            facts["error"] = {"kind": error.kind, "message": error.message, "advice": error.advice}
        print_json(facts)
        raise typer.Exit(0 if error is None else 1)
    print(said)
    if not with_adapter:
        print("Their adapters stay; --with-adapter takes them, too.")
    print("Data that you dropped under jobs/ is yours: delete it there, and in your backups.")
    if error is not None:
        raise error


def _not_erased(refused: Mapping[str, RunnerError]) -> RunnerError:
    said = "; ".join(error.message for error in refused.values())
    return RunnerError(f"NOT erased: {said}", advice=next(iter(refused.values())).advice)
