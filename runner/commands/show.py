"""`runner show`: one run's record on the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.commands.find_run import find_run
from runner.commands.options import OUTPUTS, AsJson, OutputsDir, Run, print_json
from runner.commands.status import STYLES, facts_of
from runner.contract.cards_story import title_of
from runner.contract.findings import DataFinding, Level, name_places
from runner.contract.layout import Outputs, RunFolder
from runner.contract.method_choice import method_in
from runner.contract.progress import read_progress
from runner.contract.promotions import current_run
from runner.contract.rates import RatesTried, in_words, rates_in, trial_in
from runner.contract.rating import rating_in
from runner.contract.record import RunRecord, read_record
from runner.contract.salvage import salvage
from runner.contract.states import State
from runner.contract.verdict import Verdict
from runner.errors import DamagedError, NewerRecordError
from runner.words import counted, duration, memory, number, visible, visible_lines


def samples_of(run: RunFolder) -> list[dict[str, Any]]:
    """Read the held-out questions answered before and after; none when there are none yet."""
    try:
        samples = json.loads((run.evaluation / "samples.json").read_bytes())
    except (OSError, ValueError):
        return []
    return [s for s in samples if isinstance(s, dict)] if isinstance(samples, list) else []


def print_samples(console: Console, run: RunFolder) -> None:
    """Print the held-out questions with the answers before and after, and the reference."""
    for place, sample in enumerate(samples_of(run), start=1):
        console.print()
        console.print(Text(f"{place}. {visible_lines(sample.get('question', ''))}", style="bold"))
        answers = Table.grid(padding=(0, 2))
        answers.add_column(style="dim", no_wrap=True)
        answers.add_column()
        for label in ("before", "after", "reference"):
            answers.add_row(label, Text(visible_lines(sample.get(label, "")).strip()))
        console.print(answers)


def losses_of(record: RunRecord) -> str | None:
    """Say the held-out loss before and after, where it was measured."""
    before, after = (record.metrics.get(f"eval_loss_{when}") for when in ("before", "after"))
    if not isinstance(after, int | float):
        return None
    return f"{number(before)} before → {number(after)} after (nats per token; lower is better)"


def forecast_of(record: RunRecord) -> str | None:
    """Say what was forecast and, once it is known, what the run took; None without a card."""
    told = record.forecast
    if not told.get("gpu"):
        return None
    text = f"{memory(told['gpu_memory_bytes'])} forecast"
    if told.get("limit_bytes"):
        text += f" of {memory(told['limit_bytes'])}"
    peak = told.get("measured_gpu_memory_bytes")
    return f"{text}, {memory(peak)} measured" if peak else text


def _verdict(verdict: Verdict) -> str:
    outcome = verdict.outcome.value.replace("_", " ")
    return visible(f"{outcome if verdict.changed is not False else 'unchanged'}. {verdict.reason}")


def _rates(rates: RatesTried | None) -> list[tuple[str, str]]:
    """Say which learning rates were tried, and what came out of each."""
    if rates is None:
        return []
    facts = [("rates", rates_in(rates) or "to be tried")]
    for one in rates.trials:
        if one.outcome is not None:
            name = f"rate {in_words(one.learning_rate)}"
            facts.append((name, trial_in(rates, one)))
    return facts


def _facts(run: RunFolder, record: RunRecord) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = [("run", f"{record.job}/{record.run_id}")]
    if record.waiting:
        facts.append(("waiting", visible(record.waiting.reason)))
    facts.append(
        ("dropped", f"{visible(record.file_name)}, {record.created_at:%Y-%m-%d %H:%M:%S}Z")
    )
    if record.started_at and record.ended_at:
        facts.append(("took", duration((record.ended_at - record.started_at).total_seconds())))
    if record.model:
        revision = f" @ {record.model.revision}" if record.model.revision else ""
        facts.append(("model", visible(record.model.id) + revision))
    facts += [
        ("data", f"{visible(file.path)}: {counted(file.rows, 'row')}") for file in record.data
    ]
    facts += [("trained", method_in(chosen)) for chosen in (record.method,) if chosen]
    if record.batch_plan:
        facts.append(
            (
                "batch",
                f"{record.batch_plan} (effective batch {record.batch_plan.effective_batch_size})",
            )
        )
    if forecast := forecast_of(record):
        facts.append(("GPU memory", forecast))
    if record.state is State.TRAINING:
        progress = read_progress(run, record)
        eta = duration(progress.eta_seconds)
        facts.append(("progress", f"{progress.step}/{progress.total_steps} steps, ETA {eta}"))
        facts.append(("now", facts_of(progress, None)))
    facts += _rates(record.rates)
    if losses := losses_of(record):
        facts.append(("held-out loss", losses))
    if record.verdict:
        facts.append(("verdict", _verdict(record.verdict)))
    if record.rating:
        facts.append(("experts", rating_in(record.rating)))
    if record.promotion:
        facts.append(("promotion", visible(record.promotion.reason)))
    if record.cleared:
        words = (
            f"the copy of its data, {record.cleared.at:%Y-%m-%d}, because its job has newer runs"
        )
        facts.append(("removed", f"{words}: it can no longer be measured"))
    if (current := current_run(Outputs(run.root.parent.parent), record.job)) is not None:
        mine = current == record.run_id
        facts.append(("current", "this run" if mine else f"{record.job}/{current}"))
    return facts


def _of_the_data(run: RunFolder, record: RunRecord) -> Iterator[tuple[str, str, str]]:
    """Say what the checks found: what to act on, and where the rest stands."""
    informing = 0
    for finding in record.findings:
        if finding.level is not Level.INFORM:
            yield finding.level.value, visible(_found(finding)), "yellow"
        elif finding.check == "hardest_answers":  # of all that informs, what is worth a look
            yield "data", visible(_found(finding)), "dim"
        else:
            informing += 1
    if informing:
        where = run.report.relative_to(run.root)  # of the data and of what the base made of it
        facts = "fact" if informing == 1 else "facts"
        yield "data", f"{informing} more {facts} about it: {where}", "dim"


def _found(finding: DataFinding) -> str:
    places = name_places(finding)
    return finding.message + (
        f" ({places}{', …' if finding.count > len(finding.places) else ''})" if places else ""
    )


def show_run(run: RunFolder, *, samples: bool) -> None:
    """Print a run; where its record cannot be read, what can be recovered of it."""
    try:
        record = read_record(run.record)
    except NewerRecordError:
        raise
    except DamagedError:
        record = salvage(run)
    console = Console(highlight=False)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    grid.add_row("state", Text(record.state.value, style=STYLES.get(record.state, "cyan")))
    for label, fact in _facts(run, record):
        grid.add_row(label, Text(fact))
    for attempt in record.attempts:
        end = attempt.outcome or "running"
        steps = f"steps {attempt.first_step or '–'} to {attempt.last_step or '–'}"
        reason = f" – {visible(attempt.reason)}" if attempt.reason else ""
        peak = attempt.peak_gpu_memory_bytes
        used = f", peak {memory(peak)}" if peak else ""
        if attempt.ranks > 1:
            used += f", on {', '.join(visible(title_of(card)) for card in attempt.cards)}"
        if attempt.box:
            used += f", on box {visible(attempt.box)}"
        grid.add_row(
            f"attempt {attempt.number}", Text(f"{end}, {steps}, {attempt.batch_plan}{used}{reason}")
        )
    for label, words, style in _of_the_data(run, record):
        grid.add_row(label, Text(words, style=style))
    for shortfall in record.shortfalls:
        grid.add_row("note", Text(visible(shortfall), style="yellow"))
    if record.error:
        grid.add_row("error", Text(visible_lines(record.error.message), style="red"))
        if record.error.advice:
            grid.add_row("advice", Text(visible_lines(record.error.advice)))
    if run.adapter.is_dir():
        grid.add_row("adapter", Text(str(run.adapter)))
    grid.add_row("record", Text(str(run.record)))
    console.print(grid, soft_wrap=False)
    if samples:
        print_samples(console, run)


def command(
    name: Run,
    outputs_dir: OutputsDir = OUTPUTS,
    samples: Annotated[
        bool, typer.Option("--samples", help="Also the held-out questions and answers.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show one run: outcome, attempts, losses, places.

    \b
    Example:
        runner show contracts --samples
    """
    run = find_run(Outputs(outputs_dir), name)
    if as_json:
        print_json(read_record(run.record).model_dump(mode="json"))
        return
    show_run(run, samples=samples)
