"""Find a run by its job, its id, or the end of its id."""

from __future__ import annotations

from runner.contract.layout import Outputs, RunFolder, job_name
from runner.errors import RunnerError
from runner.words import visible


class NoSuchRunError(RunnerError):
    """There is no such run."""

    kind = "no_such_run"


def find_run(outputs: Outputs, name: str) -> RunFolder:
    """Find a run by job name (its newest run), run id, start of a run id, or ``job/run id``.

    Raises:
        NoSuchRunError: none fits, or the start of an id fits several.
    """
    runs = outputs.runs()
    wanted = name.rstrip("/").rsplit("/", maxsplit=1)[-1]
    exact = [run for run in runs if run.run_id == wanted]
    of_job = [run for run in runs if run.job in (wanted, job_name(wanted))]
    # A suffix is what people read aloud: "k3f9".
    part = [run for run in runs if run.run_id.startswith(wanted) or run.run_id.endswith(wanted)]
    if exact or of_job:
        return (exact or of_job)[-1]
    if len(part) == 1:
        return part[0]
    if part:
        ids = ", ".join(f"{run.job}/{run.run_id}" for run in part[-5:])
        raise NoSuchRunError(
            f"{visible(name)!r} fits {len(part)} runs: {ids}", advice="Give more of its id."
        )
    known = ", ".join(sorted({run.job for run in runs})) or "none yet"
    raise NoSuchRunError(
        f"no job or run is called {visible(name)!r}",
        advice=f"Jobs with runs here: {known}. `runner status --all` lists the runs.",
    )
