"""Status: what runs and how far it is, what waits, what ended lately."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import typer

from runner.clock import now
from runner.commands.options import OUTPUTS, AsJson, OutputsDir, print_json
from runner.commands.page import Cell, Page
from runner.commands.which_box import hint
from runner.contract.batch import BatchPlan
from runner.contract.card_shown import CardShown, read_cards
from runner.contract.cards_story import cards_story
from runner.contract.ended import newest_ended
from runner.contract.in_use import Use, jobs_in_use
from runner.contract.layout import Outputs, RunFolder
from runner.contract.memory_story import memory_story
from runner.contract.progress import STARTING, Progress, read_progress
from runner.contract.promotions import adapter_gone
from runner.contract.rates import rates_in
from runner.contract.record_head import RecordHead, read_head
from runner.contract.states import State
from runner.errors import DamagedError
from runner.words import duration, memory, number, visible

LATEST = 5  # finished runs shown when --all is not given
_USED_SHOWN = 20  # jobs: as many as a terminal has lines to spare
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
    record: RecordHead
    progress: Progress
    in_use: bool = False
    """Its adapter is the job's current one."""

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
            "ranks": record.attempts[-1].ranks if record.attempts else None,
            "in_use": self.in_use,
            "promotion": (record.model_extra or {}).get("promotion"),
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
    in_use: Mapping[str, Use] = field(default_factory=dict)
    """Job → the run whose adapter it uses, which may be older than those above."""
    gone: tuple[str, ...] = ()
    """Sentences about jobs whose adapter in use was deleted."""
    cards: tuple[CardShown, ...] = ()
    """Where the box has several: which run works on which."""

    def as_json(self) -> dict[str, Any]:
        """Give the same to a script."""
        return {
            "running": [s.as_json() for s in self.running],
            "queue": [s.as_json() for s in self.queue],
            "finished": [s.as_json() for s in self.finished],
            "damaged": list(self.damaged),
            "gone": list(self.gone),
            "in_use": {job: use.current for job, use in self.in_use.items()},
            "cards": [asdict(card) for card in self.cards],
        }


def read_overview(outputs: Outputs, *, every: bool = False) -> Overview:
    """Read the records that are to be shown; a run whose record is damaged is named, not hidden."""
    latest = None if every else LATEST
    return overview_of(outputs, _to_read(outputs, latest=latest), latest=latest)


def overview_of(outputs: Outputs, runs: Sequence[RunFolder], *, latest: int | None) -> Overview:
    """Do the same of some runs; ``latest``: so many finished ones are shown, None: all."""
    standings: list[Standing] = []
    damaged: list[str] = []
    uses = jobs_in_use(outputs)
    for run in runs:
        try:
            record = read_head(run.record)
        except FileNotFoundError:
            continue  # claimed this moment: its record is being written
        except (DamagedError, OSError):
            damaged.append(f"{run.job}/{run.run_id}")
            continue
        in_use = run.job in uses and uses[run.job].current == run.run_id
        progress = read_progress(run, record)
        standings.append(Standing(run=run, record=record, progress=progress, in_use=in_use))
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
        finished=tuple(finished[:latest]),
        damaged=tuple(damaged),
        in_use=uses,
        gone=tuple(_gone(outputs, uses)),
        cards=read_cards(outputs),
    )


def _gone(outputs: Outputs, uses: Mapping[str, Use]) -> Iterator[str]:
    for job, use in uses.items():
        if use.current and (said := adapter_gone(outputs, job, use.current)):
            yield said


def _to_read(outputs: Outputs, *, latest: int | None) -> list[RunFolder]:
    """List all runs but those that ended before the latest: their records need not be read."""
    if latest is None:
        return outputs.runs()
    known = newest_ended(outputs, latest)
    return sorted([*known.newest, *known.to_read], key=lambda run: run.run_id)


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


def _running(standing: Standing, page: Page) -> list[str]:
    record, progress = standing.record, standing.progress
    state = page.styled(record.state.value, STYLES.get(record.state, "cyan"))
    lines = [f"{page.styled(record.job, 'bold')} {page.styled(record.run_id, 'dim')} {state}"]
    total = progress.total_steps
    if total:
        left = progress.eta_seconds
        eta = f" ETA {duration(left)}" if left is not None else ""
        bar = page.bar(progress.step / total)
        lines.append(f"{bar} {progress.step}/{total} steps {progress.share:.0%}{eta}")
        starting = record.state is State.TRAINING and progress.loss is None
        lines += page.wrapped(STARTING if starting else facts_of(progress, record.batch_plan))
    remarks = [visible(record.waiting.reason)] if record.waiting else []
    if record.rates is not None and (said := rates_in(record.rates)):
        remarks.append(said)
    story = memory_story(record)
    remarks += [visible(change) for change in story]
    remarks += [visible(one) for one in cards_story(record)]
    if len(record.attempts) > 1:
        reasons = [visible(a.reason) for a in record.attempts if a.reason and a.reason not in story]
        tail = f": {reasons[-1]}" if reasons else ""
        remarks.append(f"attempt {len(record.attempts)}{tail}")
    return lines + [
        page.styled(line, "yellow") for remark in remarks for line in page.wrapped(remark)
    ]


def _outcome(standing: Standing) -> str:
    record = standing.record
    parts = ["in use"] if standing.in_use else []
    if record.error:
        return visible(record.error.message.split("\n")[0])
    if record.verdict and record.verdict.needs_person:
        return "; ".join(map(visible, [*parts, record.verdict.reason, *memory_story(record)]))
    if record.verdict:
        parts.append(record.verdict.outcome.value.replace("_", " "))
    before, after = (record.metrics.get(f"eval_loss_{when}") for when in ("before", "after"))
    if isinstance(after, int | float):
        parts.append(f"held-out loss {number(before)} → {number(after)}")
    return "; ".join([*parts, *map(visible, memory_story(record))])


def render(overview: Overview, page: Page) -> str:
    """Lay the overview out for a terminal."""
    lines = [line for standing in overview.running for line in _running(standing, page)]
    if not lines:
        lines.append(page.styled("Nothing is training.", "dim"))
    if overview.cards:
        cards = [[Cell(text=visible(card.title)), _at_work(card)] for card in overview.cards]
        lines += page.table("Cards", ("card", ""), cards)
    if overview.queue:
        queue = [
            [
                Cell(text=str(place)),
                *_run_cells(standing.record),
                Cell(text=str(standing.record.priority)),
                Cell(text=visible(waiting.reason) if (waiting := standing.record.waiting) else ""),
            ]
            for place, standing in enumerate(overview.queue, start=1)
        ]
        lines += page.table("Queue", ("#", "job", "run", "state", "priority", ""), queue)
    if overview.finished:
        finished = [
            [
                *_run_cells(standing.record),
                Cell(text=_took(standing.record)),
                Cell(text=_outcome(standing)),
            ]
            for standing in overview.finished
        ]
        lines += page.table("Finished", ("job", "run", "state", "took", ""), finished)
    if overview.in_use:
        used = [
            [Cell(text=visible(job)), Cell(text=visible(use.current or "")), Cell(text=_day(use))]
            for job, use in list(overview.in_use.items())[:_USED_SHOWN]
        ]
        lines += page.table("In use", ("job", "run", "since"), used)
        if (more := len(overview.in_use) - _USED_SHOWN) > 0:
            lines.append(page.styled(f"and {more} more jobs: `runner status --json`", "dim"))
    for said in overview.gone[:_USED_SHOWN]:
        lines += [page.styled(line, "red") for line in page.wrapped(said)]
    for name in overview.damaged:
        said = f"{name}: its record cannot be read; `runner show {name}` says more"
        lines += [page.styled(line, "red") for line in page.wrapped(said)]
    return "\n".join(lines)


def _at_work(card: CardShown) -> Cell:
    said = [f"{visible(card.job)} {card.run_id}"] if card.run_id else []
    said += [visible(card.problem)] if card.problem else []
    style = "yellow" if card.problem else "" if said else "dim"
    return Cell(text="; ".join(said) or "free", style=style)


def _day(use: Use) -> str:
    return f"{use.since.astimezone():%Y-%m-%d %H:%M}" if use.since else ""


def _run_cells(record: RecordHead) -> list[Cell]:
    style = STYLES.get(record.state, "cyan")
    return [
        Cell(text=record.job),
        Cell(text=record.run_id),
        Cell(text=record.state.value, style=style),
    ]


def _took(record: RecordHead) -> str:
    took = (record.ended_at or now()) - (record.started_at or record.created_at)
    return duration(max(0.0, took.total_seconds()))


def show_status(outputs: Outputs, *, every: bool, follow: bool) -> None:
    """Print the overview, once or until interrupted."""
    if not follow:
        page = Page.of_terminal()
        page.print(render(read_overview(outputs, every=every), page))
        return
    from rich.console import Console  # noqa: PLC0415 - a tenth of a second that one look can spare
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    with Live(console=Console(highlight=False), auto_refresh=False, screen=False) as live:
        while True:
            shown = render(read_overview(outputs, every=every), Page.of_terminal())
            live.update(Text.from_ansi(shown), refresh=True)
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
