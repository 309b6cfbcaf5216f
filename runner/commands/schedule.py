"""`runner schedule`: which jobs run on schedule, when they come next, how their last run ended."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from runner.clock import now
from runner.commands.options import OUTPUTS, AsJson, OutputsDir, print_json
from runner.commands.page import Cell, Page
from runner.commands.which_box import hint
from runner.contract.layout import Outputs
from runner.contract.record import RunRecord, read_record
from runner.contract.schedules import Schedule, read_schedules
from runner.daemon.schedule.answer import last_time
from runner.errors import RunnerError
from runner.language.speaker import ENGLISH
from runner.spec.cron import cron_problem, next_times
from runner.words import visible

_SHOWN = 3  # next times of each, where --times is not given


def upcoming(known: Schedule, at: datetime, count: int) -> list[datetime]:
    """Give a schedule's next times; none while it is paused."""
    if known.problem or cron_problem(known.line):
        return []
    return next_times(known.line, max(at, known.done_until), count)


def _last_run(outputs: Outputs, known: Schedule) -> RunRecord | None:
    if known.last_run_id is None:
        return None
    try:
        return read_record(outputs.run(known.job, known.last_run_id).record)
    except (OSError, RunnerError):
        return None


def as_json(outputs: Outputs, name: str, known: Schedule, times: list[datetime]) -> dict[str, Any]:
    """Give one schedule to a script."""
    run = _last_run(outputs, known)
    return {
        "file": f"scheduled/{name}",
        "job": known.job,
        "schedule": known.line,
        "next": [one.isoformat() for one in times],
        "paused": known.problem,
        "last": known.last.model_dump(mode="json") if known.last else None,
        "last_run": {
            "run_id": run.run_id,
            "state": run.state.value,
            "verdict": run.verdict.model_dump(mode="json") if run.verdict else None,
        }
        if run
        else None,
    }


def _cells(outputs: Outputs, name: str, known: Schedule, times: list[datetime]) -> list[Cell]:
    run = _last_run(outputs, known)
    said = [f"{run.run_id} {run.state.value}"] if run else ["no run yet"]
    if known.problem:
        said = [visible(known.problem.strip().partition("\n")[0])]
    elif known.last is not None and known.last.run_id != known.last_run_id:
        said.append(last_time(known.last))
    when = ", ".join(ENGLISH.time(one, day=True) for one in times) or "paused"
    return [
        Cell(text=known.job),
        Cell(text=visible(name)),
        Cell(text=known.line),
        Cell(text=when, style="red" if known.problem else ""),
        Cell(text="; ".join(said)),
    ]


def command(
    outputs_dir: OutputsDir = OUTPUTS,
    times: Annotated[int, typer.Option(min=1, max=100, help="How many next times.")] = _SHOWN,
    json_: AsJson = False,
) -> None:
    """List the jobs in jobs/scheduled/ and their next times.

    Times are the box's own (TZ).

    \b
    Example:
        runner schedule --times 10
    """
    outputs, at = Outputs(outputs_dir), now()
    found = {
        name: (known, upcoming(known, at, times)) for name, known in read_schedules(outputs).items()
    }
    if json_:
        print_json([as_json(outputs, name, *one) for name, one in found.items()])
        return
    page = Page.of_terminal()
    if not found:
        page.print(
            'Nothing is on schedule. Give a spec a line such as schedule: "0 2 * * sun" and drop '
            "it into jobs/ or jobs/scheduled/."
        )
    else:
        rows = [_cells(outputs, name, *one) for name, one in found.items()]
        titles = ("job", "file", "schedule", "next", "last")
        page.print("\n".join(page.table("On schedule", titles, rows)).lstrip("\n"))
    if said := hint(outputs):
        print(said)
