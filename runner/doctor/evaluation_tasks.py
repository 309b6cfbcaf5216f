"""Doctor: can the tasks of lm-evaluation-harness be run that the box's owner allows?"""

from __future__ import annotations

from pathlib import Path

from runner.contract.evaluation_tasks import (
    MEND,
    NOT_SHARED,
    harness_version,
    read_allowed,
    shared_tasks,
    shown_names,
)
from runner.doctor.finding import Finding, Level
from runner.words import visible

_WHY = "A job that asks for evaluation.tasks needs them; no other job does."


def examine_tasks(folder: str, *shared: Path) -> Finding:
    """Look at the folder that the settings name, and for the harness.

    Args:
        folder: the setting; empty: there is none.
        shared: folders that others may write to.
    """

    def found(level: Level, what: str, fix: str = "") -> Finding:
        return Finding(check="Evaluation tasks", level=level, what=what, why=_WHY, fix=fix)

    if not folder:
        what = (
            "No tasks of lm-evaluation-harness are allowed here: RUNNER_EVALUATION_TASKS names no "
            "folder."
        )
        return found(Level.SKIPPED, what)
    if wrong := shared_tasks(folder, *shared):
        return found(Level.TROUBLE, wrong, NOT_SHARED)
    try:
        allowed = read_allowed(Path(folder))
    except OSError as error:
        what = f"The folder of evaluation tasks cannot be read: {visible(folder)}"
        fix = f"Name a folder that is there in RUNNER_EVALUATION_TASKS ({error.strerror})."
        return found(Level.ADVICE, what, fix)
    if not allowed:
        what = f"The folder of evaluation tasks has none: {visible(folder)}"
        return found(Level.ADVICE, what, "Put files NAME.yaml there, with a line `task: NAME`.")
    version = harness_version()
    if version is None:
        what = f"lm-evaluation-harness is not installed, and tasks are allowed: {visible(folder)}"
        return found(Level.ADVICE, what, MEND)
    what = f"lm-evaluation-harness {version} can run {shown_names(allowed)}."
    return found(Level.OK, what)
