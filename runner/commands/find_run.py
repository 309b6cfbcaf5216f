"""Find a run by its job, its id, or the end of its id."""

from __future__ import annotations

from runner.contract.ended import stamp_of
from runner.contract.layout import Outputs, RunFolder, job_name
from runner.contract.record import read_record
from runner.errors import RunnerError
from runner.words import visible


class NoSuchRunError(RunnerError):
    """There is no such run."""

    kind = "no_such_run"


_LATE = 20
"""Records read, by name and by time each: more runs of one job are hardly claimed while a clock is
wrong."""


def _newest(runs: list[RunFolder]) -> RunFolder:
    """Find the run that was claimed last: a run id tells the time of day, and that may jump back.

    All records of a job that ran a thousand times are not read for it, but the latest by name and
    by the time at which their record was written, which was right before or after the jump.
    """
    by_change = sorted(runs, key=_record_changed)
    late = dict.fromkeys([*runs[-_LATE:], *by_change[-_LATE:]])
    return max(late, key=lambda run: (_sequence(run), run.run_id))


def _record_changed(run: RunFolder) -> int:
    stamp = stamp_of(run.record)
    return stamp[0] if stamp else 0


def _sequence(run: RunFolder) -> int:
    try:
        return read_record(run.record).sequence
    except (OSError, RunnerError):
        return 0


def says_something(name: str) -> bool:
    """Whether a name names anything: an empty one would fit every run, and so would two dots."""
    return bool(name.strip("./ "))


def find_run(outputs: Outputs, name: str) -> RunFolder:
    """Find a run by job name (its newest run), run id, start of a run id, or ``job/run id``.

    Raises:
        NoSuchRunError: none fits, or the start of an id fits several.
    """
    runs = outputs.runs()
    wanted = name.rstrip("/").rsplit("/", maxsplit=1)[-1]
    if not says_something(wanted):  # a variable of a script that is empty
        runs = []
    exact = [run for run in runs if run.run_id == wanted]
    of_job = [run for run in runs if run.job in (wanted, job_name(wanted))]
    # A suffix is what people read aloud: "k3f9".
    part = [run for run in runs if run.run_id.startswith(wanted) or run.run_id.endswith(wanted)]
    if exact or of_job:
        return exact[-1] if exact else _newest(of_job)
    if len(part) == 1:
        return part[0]
    if part:
        ids = ", ".join(f"{run.job}/{run.run_id}" for run in part[-5:])
        raise NoSuchRunError(
            f"{visible(name)!r} fits {len(part)} runs: {ids}", advice="Give more of its id."
        )
    known = ", ".join(sorted({run.job for run in outputs.runs()})) or "none yet"
    raise NoSuchRunError(
        f"no job or run is called {visible(name)!r}",
        advice=f"Jobs with runs here: {known}. `runner status --all` lists the runs.",
    )
