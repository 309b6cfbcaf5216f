"""Status: what runs and how far it is, what waits, what ended lately."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runner.clock import now
from runner.commands.options import OUTPUTS, AsJson, OutputsDir, print_json
from runner.commands.which_box import hint
from runner.contract.batch import BatchPlan
from runner.contract.ended import sort_out
from runner.contract.layout import Outputs, RunFolder
from runner.contract.memory_story import memory_story
from runner.contract.progress import STARTING, Progress, read_progress
from runner.contract.record import RunRecord, read_record
from runner.contract.states import State
from runner.errors import DamagedError
from runner.words import duration, memory, number, visible

LATEST = 5  # finished runs shown when --all is not given
REFRESH_SECONDS = 1.0

STYLES = {
    State.SUCCEEDED: "green",
    State.FAILED: "bold red",
    State.REJECTED: "red",
    State.CANCELLED: "yellow",
    State.INTERRUPTED: "yellow",
}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One run, as status tells it."""

    run: RunFolder
    record: RunRecord
    progress: Progress

    def as_json(self) -> dict[str, Any]:
        """Give what a script needs; the whole record is `runner show --json`'s."""
        record = self.record
        return {
            "job": record.job,
            "run_id": record.run_id,
            "state": record.state.value,
            "priority": record.priority,
            "created_at": record.created_at.isoformat(),
            "started_at": record.started_at.isoformat() if record.started_at else None,
            "ended_at": record.ended_at.isoformat() if record.ended_at else None,
            "waiting": record.waiting.reason if record.waiting else None,
            "attempts": len(record.attempts),
            "memory": memory_story(record),
            "verdict": record.verdict.model_dump(mode="json") if record.verdict else None,
            "progress": asdict(self.progress),
            "error": record.error.model_dump() if record.error else None,
            "folder": str(self.run.root),
        }


@dataclass(frozen=True, kw_only=True)
class Overview:
    """Everything that status tells."""

    running: tuple[Standing, ...]
    queue: tuple[Standing, ...]
    """In the order in which they will run."""
    finished: tuple[Standing, ...]
    """Newest first."""
    damaged: tuple[str, ...]
    """Run folders whose record cannot be read."""

    def as_json(self) -> dict[str, Any]:
        """Give the same to a script."""
        return {
            "running": [s.as_json() for s in self.running],
            "queue": [s.as_json() for s in self.queue],
            "finished": [s.as_json() for s in self.finished],
            "damaged": list(self.damaged),
        }


def read_overview(outputs: Outputs, *, every: bool = False) -> Overview:
    """Read the records that are to be shown; a run whose record is damaged is named, not hidden."""
    standings: list[Standing] = []
    damaged: list[str] = []
    for run in _to_read(outputs, latest=None if every else LATEST):
        try:
            record = read_record(run.record)
        except FileNotFoundError:
            continue  # claimed this moment: its record is being written
        except (DamagedError, OSError):
            damaged.append(f"{run.job}/{run.run_id}")
            continue
        standings.append(Standing(run=run, record=record, progress=read_progress(run, record)))
    waiting = {State.QUEUED, State.PREPARING}
    finished = sorted(
        (s for s in standings if s.record.state.is_final),
        key=lambda s: s.record.ended_at or s.record.created_at,
        reverse=True,
    )
    return Overview(
        running=tuple(
            s for s in standings if s.record.state not in waiting and not s.record.state.is_final
        ),
        queue=tuple(
            sorted(
                (s for s in standings if s.record.state in waiting),
                key=lambda s: (-s.record.priority, s.record.sequence, s.record.run_id),
            )
        ),
        finished=tuple(finished if every else finished[:LATEST]),
        damaged=tuple(damaged),
    )


def _to_read(outputs: Outputs, *, latest: int | None) -> list[RunFolder]:
    """List all runs but those that ended before the latest: their records need not be read."""
    if latest is None:
        return outputs.runs()
    known = sort_out(outputs)
    newest_first = sorted(known.ended.values(), key=lambda one: one.ended_at, reverse=True)
    shown = [outputs.run(one.job, one.run_id) for one in newest_first[:latest]]
    return sorted([*known.to_read, *shown], key=lambda run: run.run_id)


def facts_of(progress: Progress, plan: BatchPlan | None) -> str:
    """Say the running job's figures in one line."""
    facts = [f"loss {number(progress.loss)}"]
    if progress.eval_loss is not None:
        facts.append(f"held-out {number(progress.eval_loss)}")
    facts.append(f"{number(progress.tokens_per_second, ',.0f')} tokens/s")
    if progress.gpu_memory_bytes:
        facts.append(f"memory {memory(progress.gpu_memory_bytes)}")
    if plan:
        facts.append(f"batch {plan}")
    return " · ".join(facts)


def _state(record: RunRecord) -> Text:
    return Text(record.state.value, style=STYLES.get(record.state, "cyan"))


def _running(standing: Standing) -> RenderableType:
    record, progress = standing.record, standing.progress
    head = Table.grid(padding=(0, 1))
    head.add_row(Text(record.job, style="bold"), Text(record.run_id, style="dim"), _state(record))
    lines: list[RenderableType] = [head]
    if record.total_steps:
        bar = Table.grid(padding=(0, 1))
        left = progress.eta_seconds
        eta = f"ETA {duration(left)}" if left is not None else ""
        bar.add_row(
            ProgressBar(total=record.total_steps, completed=progress.step, width=30),
            f"{progress.step}/{record.total_steps} steps",
            f"{progress.share:.0%}",
            eta,
        )
        starting = record.state is State.TRAINING and progress.loss is None
        lines += [bar, Text(STARTING if starting else facts_of(progress, record.batch_plan))]
    if record.waiting:
        lines.append(Text(visible(record.waiting.reason), style="yellow"))
    story = memory_story(record)
    lines += [Text(visible(change), style="yellow") for change in story]
    if len(record.attempts) > 1:
        reasons = [visible(a.reason) for a in record.attempts if a.reason and a.reason not in story]
        tail = f": {reasons[-1]}" if reasons else ""
        lines.append(Text(f"attempt {len(record.attempts)}{tail}", style="yellow"))
    return Group(*lines)


def _outcome(standing: Standing) -> str:
    record = standing.record
    if record.error:
        return visible(record.error.message.split("\n")[0])
    if record.verdict and record.verdict.needs_person:
        return visible(record.verdict.reason)
    parts = []
    if record.verdict:
        parts.append(record.verdict.outcome.value.replace("_", " "))
    before, after = (record.metrics.get(f"eval_loss_{when}") for when in ("before", "after"))
    if isinstance(after, int | float):
        parts.append(f"held-out loss {number(before)} → {number(after)}")
    return "; ".join([*parts, *map(visible, memory_story(record))])


def render(overview: Overview) -> RenderableType:
    """Lay the overview out for a terminal."""
    parts: list[RenderableType] = [_running(standing) for standing in overview.running]
    if not parts:
        parts.append(Text("Nothing is training.", style="dim"))
    if overview.queue:
        queue = Table(title="Queue", title_justify="left", box=None, pad_edge=False)
        for column in ("#", "job", "run", "state", "priority", ""):
            queue.add_column(column, no_wrap=column == "run")
        for place, standing in enumerate(overview.queue, start=1):
            record = standing.record
            queue.add_row(
                str(place),
                Text(record.job),
                Text(record.run_id),
                _state(record),
                str(record.priority),
                Text(visible(record.waiting.reason) if record.waiting else ""),
            )
        parts += ["", queue]
    if overview.finished:
        finished = Table(title="Finished", title_justify="left", box=None, pad_edge=False)
        for column in ("job", "run", "state", "took", ""):
            finished.add_column(column, no_wrap=column == "run")
        for standing in overview.finished:
            record = standing.record
            took = (record.ended_at or now()) - (record.started_at or record.created_at)
            finished.add_row(
                Text(record.job),
                Text(record.run_id),
                _state(record),
                duration(max(0.0, took.total_seconds())),
                Text(_outcome(standing)),
            )
        parts += ["", finished]
    parts += [
        Text(f"{name}: its record cannot be read; `runner show {name}` says more", style="red")
        for name in overview.damaged
    ]
    return Group(*parts)


def show_status(outputs: Outputs, *, every: bool, follow: bool) -> None:
    """Print the overview, once or until interrupted."""
    console = Console(highlight=False)
    if not follow:
        console.print(render(read_overview(outputs, every=every)))
        return
    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            live.update(render(read_overview(outputs, every=every)), refresh=True)
            time.sleep(REFRESH_SECONDS)


def command(
    outputs_dir: OutputsDir = OUTPUTS,
    every: Annotated[bool, typer.Option("--all", "-a", help="Show every finished run.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep it up to date.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the queue and how far the running job is.

    Its progress, loss, tokens a second, memory and ETA.

    \b
    Example:
        runner status --follow
    """
    if as_json:
        print_json(read_overview(Outputs(outputs_dir), every=every).as_json())
        return
    show_status(Outputs(outputs_dir), every=every, follow=follow)
    if said := hint(Outputs(outputs_dir)):
        print(said)
