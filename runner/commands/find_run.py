"""Find a run by its job, its id, or the end of its id; a job by its name."""

from __future__ import annotations

import difflib

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
_SHOWN = 80  # characters of a name in a message
_JOBS = 20  # named in a message


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


def parted(outputs: Outputs, name: str) -> tuple[str, str]:
    """Part a name into the job that it is within, or nothing, and its last word.

    A shell completes paths (``outputs/contracts/…``), so the outputs folder's own name is no job's.
    """
    folder, _, last = name.rstrip("/").rpartition("/")
    job = folder.rpartition("/")[2]
    return ("" if job in (".", "..", "outputs", outputs.root.absolute().name) else job), last


def find_run(outputs: Outputs, name: str) -> RunFolder:
    """Find a run by job name (its newest run), run id, start or end of a run id, or ``job/run id``.

    Raises:
        NoSuchRunError: none fits, or the start of an id fits several; or it is of another job than
            the one that was named, for that may be erased.
    """
    runs = outputs.runs()
    job, wanted = parted(outputs, name)
    fitting = [run for run in runs if not job or run.job in (job, job_name(job))]
    if not says_something(wanted):  # a variable of a script that is empty
        fitting = []
    exact = [run for run in fitting if run.run_id == wanted]
    of_job = [] if job else [run for run in runs if run.job in _names_of(wanted)]
    # A suffix is what people read aloud: "k3f9".
    part = [run for run in fitting if run.run_id.startswith(wanted) or run.run_id.endswith(wanted)]
    if exact or of_job:
        return exact[-1] if exact else _newest(of_job)
    if len(part) == 1:
        return part[0]
    if part:
        ids = ", ".join(f"{run.job}/{run.run_id}" for run in part[-5:])
        raise NoSuchRunError(
            f"{_shown(name)} fits {len(part)} runs: {ids}", advice="Give more of its id."
        )
    raise _no_such(runs, name, wanted)


def find_job(outputs: Outputs, name: str) -> str:
    """Find a job by its name.

    Raises:
        NoSuchRunError: there is none, or the name is a run's.
    """
    within, wanted = parted(outputs, name)
    jobs = {folder.name for folder in outputs.job_folders()}
    for one in _names_of(wanted):
        if one in jobs and not within:
            return one
    run = find_run(outputs, name)
    raise NoSuchRunError(
        f"{_shown(name)} is a run, and a job's name is wanted", advice=f"Its job is {run.job}."
    )


def _names_of(wanted: str) -> tuple[str, ...]:
    return (wanted, job_name(wanted)) if says_something(wanted) else ()


def _shown(name: str) -> str:
    """Show what was asked for; a page that was pasted by accident is not said again whole."""
    return f"'{visible(name if len(name) <= _SHOWN else f'{name[:_SHOWN]}…')}'"


def _no_such(runs: list[RunFolder], name: str, wanted: str) -> NoSuchRunError:
    jobs = sorted({run.job for run in runs})
    ids = [f"{run.job}/{run.run_id}" for run in runs if run.run_id.endswith(wanted)]
    meant = ids[-1:] if says_something(wanted) else []  # of another job than the one named
    meant += difflib.get_close_matches(wanted.casefold()[:_SHOWN], jobs, n=1)
    advice = f"Did you mean {meant[0]}? " if meant else ""
    if not jobs:
        return NoSuchRunError(
            f"no job or run is called {_shown(name)}",
            advice="There are no runs here yet: a spec in jobs/ becomes one while `runner watch` "
            "or the container runs.",
        )
    listed = ", ".join(jobs[:_JOBS])
    more = f" and {len(jobs) - _JOBS} more" if len(jobs) > _JOBS else ""
    return NoSuchRunError(
        f"no job or run is called {_shown(name)}",
        advice=f"{advice}Jobs with runs here: {listed}{more}. `runner status --all` lists the "
        "runs.",
    )
