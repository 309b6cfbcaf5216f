"""Enter a schedule: a spec with ``schedule:`` that was dropped into jobs/ moves to jobs/scheduled/.

It takes the place of an earlier one of that job and name. A scheduled run's own copy that a person
drags back from failed/ is no new schedule: it runs once more, now.
"""

from __future__ import annotations

from runner.contract.layout import SCHEDULED
from runner.daemon.daemon import Daemon
from runner.daemon.inbox.claim import dropped_name, refuse_name
from runner.daemon.inbox.enter import note_refusal
from runner.daemon.inbox.view import SPEC_BYTES
from runner.daemon.inbox.wait_for_data import named_files
from runner.errors import Problem, RunnerError
from runner.files.beneath import Folder
from runner.spec.read_spec import read_spec
from runner.spec.spec import JobSpec
from runner.words import visible


def is_for_schedule(name: str, spec: JobSpec) -> bool:
    """Whether a dropped spec is to be kept and to start runs."""
    return spec.schedule is not None and dropped_name(name) == name


def keep_on_schedule(
    daemon: Daemon, inbox: Folder, name: str, spec: JobSpec, *, run_id: str
) -> None:
    """Move a spec to scheduled/, in the place of the same job's earlier one.

    Raises:
        FileNotFoundError: it is gone.
    """
    with inbox.open_folder(SCHEDULED) as scheduled:
        other = _job_of(scheduled, name)
        if other not in (None, spec.name):
            problem = Problem(
                file=name,
                field="schedule",
                message=f"jobs/{SCHEDULED}/{visible(name)} is the schedule of another job, {other}",
                hint="rename this file and drop it again",
            )
            refused = refuse_name(inbox, name, problem, run_id=run_id, speak=daemon.says.speak)
            note_refusal(daemon, refused)
            return
        scheduled.remove_file(name)
        inbox.move(name, scheduled, name)
    daemon.scheduled_data |= frozenset(named_files(spec))  # before it is read there: no strays
    instead = ", in the place of its earlier schedule" if other else ""
    daemon.log.say(
        f"{spec.name}: is on schedule from now on{instead}", file=name, schedule=spec.schedule
    )
    daemon.look_by(0.0)


def _job_of(scheduled: Folder, name: str) -> str | None:
    """Tell whose schedule lies there under a name; None: nobody's."""
    try:
        return read_spec(scheduled.read_file(name, limit_bytes=SPEC_BYTES), file_name=name).name
    except (OSError, RunnerError):
        return None
