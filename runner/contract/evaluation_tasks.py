"""Evaluation tasks: lm-evaluation-harness tasks of a folder that the box's owner names.

A task is a `.yaml` file with its data beside it. It may name Python code, which the evaluate stage
then runs: so the folder is the owner's, and a spec can only say which of its tasks to run.
lm-evaluation-harness is an extra (`tasks` in pyproject.toml); without it everything else works.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.errors import Problem
from runner.words import visible

VARIABLE = "RUNNER_EVALUATION_TASKS"
FIELD = "evaluation.tasks"
MEND = (
    "LM_EVAL=true in .env and `docker compose build` put it into the image; without a container "
    "the project's extra `tasks` installs it."
)
NOT_SHARED = (
    "Tasks may name Python code, which is run: move them to a folder that nobody else can write to."
)
_TASK = re.compile(rb"^task:[ \t]*['\"]?([^\s'\"#\[{]+)", re.MULTILINE)
_GROUP = re.compile(rb"^(group|class):", re.MULTILINE)  # several tasks, or one that is only code
_FILES = 20_000  # lm-evaluation-harness comes with 14,000
_FILE_BYTES = 1024 * 1024
_SHOWN = 20


def read_allowed(folder: Path) -> Mapping[str, Path]:
    """List a folder's tasks by name, each with its file; the first file of a name counts.

    Raises:
        OSError: the folder cannot be read.
    """
    with os.scandir(folder):  # rglob finds nothing in a folder that is not there
        pass
    found: dict[str, Path] = {}
    for file in sorted(itertools.islice(folder.rglob("*.yaml"), _FILES)):
        try:
            with file.open("rb") as opened:
                content = opened.read(_FILE_BYTES)
        except OSError:
            continue  # it is said of a task that is asked for
        named = _TASK.search(content)
        if named and not _GROUP.search(content):
            found.setdefault(named[1].decode(errors="replace"), file)
    return found


def shared_tasks(folder: str, *shared: Path) -> str | None:
    """Say that a folder of tasks lies where whoever has the share may write; None: it does not."""
    tasks = Path(os.path.realpath(folder))
    # A share may be dead: abspath does not look at it.
    for there in (Path(os.path.abspath(path)) for path in shared if folder):
        if there in (tasks, *tasks.parents):
            return (
                f"RUNNER_EVALUATION_TASKS names {visible(folder)}, which lies in a shared folder."
            )
    return None


def harness_version() -> str | None:
    """Give the version of lm-evaluation-harness; None: it is not installed."""
    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        return None


def tasks_problems(names: Sequence[str], folder: str | None) -> list[Problem]:
    """Refuse tasks that this box cannot run; none: it can.

    Args:
        names: what a spec's ``evaluation.tasks`` asks for.
        folder: the setting of the box's owner; empty or None: there is none.
    """
    if not names:
        return []
    if not folder:
        what = "this box has no tasks of lm-evaluation-harness"
        return [_problem(what, "Leave it out, or let the box's owner set RUNNER_EVALUATION_TASKS.")]
    try:
        allowed = read_allowed(Path(folder))
    except OSError as error:
        what = f"the folder of tasks cannot be read: {visible(folder)} ({error.strerror})"
        return [_problem(what, "The box's owner names it in RUNNER_EVALUATION_TASKS.")]
    problems = [
        Problem(
            field=FIELD,
            found=name,
            message="no such task is allowed on this box",
            allowed=shown_names(allowed) or None,
            hint="The box's owner puts its .yaml file into the folder that RUNNER_EVALUATION_TASKS "
            "names.",
        )
        for name in names
        if name not in allowed
    ]
    if harness_version() is None:
        problems.append(_problem("lm-evaluation-harness is not installed on this box", MEND))
    return problems


def shown_names(allowed: Mapping[str, Path]) -> str:
    """Name the tasks, or the first of many."""
    names = [visible(name) for name in sorted(allowed)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _problem(message: str, hint: str) -> Problem:
    return Problem(field=FIELD, message=message, hint=hint)
