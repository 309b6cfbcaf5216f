"""`runner check`: what is wrong with a job's data, and what it would teach; nothing is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from runner.commands.options import MODELS, AsJson, ModelsDir, print_json
from runner.commands.prepare_aside import prepared_from
from runner.contract.findings import DataFinding, Level, name_places, read_findings
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.stage_io import PrepareResult, read_message
from runner.words import visible

_MARKS = {
    Level.STOP: ("✗", "bold red", "stops the job"),
    Level.ADVISE: ("!", "bold yellow", "advice"),
    Level.INFORM: ("·", "cyan", "good to know"),
}
_BAR = 40  # characters of the longest bar


def verdict(findings: Sequence[DataFinding]) -> tuple[str, str]:
    """Say in a sentence whether the job could run with this data, and in which colour."""
    stops, advice = (
        sum(finding.level is level for finding in findings) for level in (Level.STOP, Level.ADVISE)
    )
    if stops:
        things = "One thing stops" if stops == 1 else f"{stops} things stop"
        return f"The job would be rejected: {things[:1].lower()}{things[1:]} it (✗).", "bold red"
    if advice:
        things = "One thing" if advice == 1 else f"{advice} things"
        return f"The job can run. {things} would make the result better (!).", "bold green"
    return "The job can run; the checks have no advice.", "bold green"


def as_json(findings: Sequence[DataFinding], notes: Sequence[str]) -> dict[str, Any]:
    """Give the same to a script."""
    return {
        "could_run": not any(finding.level is Level.STOP for finding in findings),
        "findings": [finding.model_dump(mode="json") for finding in findings],
        "notes": list(notes),
    }


def places_of(finding: DataFinding) -> str:
    """Name the examples, and how many more there are."""
    more = finding.count - len(finding.places)
    named = name_places(finding)
    return f"{named}, and {more:,} more" if named and more > 0 else named


def bars(values: Mapping[str, str | int | float]) -> list[tuple[str, int]]:
    """Read a histogram out of a finding's figures: the upper end of each bar, and its rows."""
    ends = [(key.removeprefix("to_"), value) for key, value in values.items()]
    return [
        ("longer" if end == "longer" else f"to {int(end):,}", rows)
        for end, rows in ends
        if isinstance(rows, int) and (end.isdigit() or end == "longer")
    ]


def histogram(values: Mapping[str, str | int | float]) -> RenderableType:
    """Draw how many rows have how many tokens, from the first bar to the last that has any."""
    found = bars(values)
    held = [place for place, (_, rows) in enumerate(found) if rows]
    shown = found[held[0] : held[-1] + 1] if held else []
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style="dim")
    table.add_column()
    most = max((rows for _, rows in shown), default=1)
    for name, rows in shown:
        bar = "█" * round(_BAR * rows / most) or ("▏" if rows else "")
        table.add_row(f"{name} tokens", Text.assemble((bar, "cyan"), f" {rows:,}"))
    return table


def notes_of(run: RunFolder) -> tuple[str, ...]:
    """Read what the run's answer would tell beside the findings: columns not read, for one."""
    result = StageFolder(run.prepared).result
    # Data that is refused leaves no result: its findings say why.
    return read_message(result, PrepareResult).shortfalls if result.exists() else ()


def render(findings: Sequence[DataFinding], notes: Sequence[str] = ()) -> RenderableType:
    """Lay the findings out: what was found, where, and what to do; then the notes."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    before: Level | None = None
    for finding in findings:
        mark, style, word = _MARKS[finding.level]
        lines: list[RenderableType] = [Text(visible(finding.message))]
        if finding.check == "token_lengths":
            lines.append(Padding(histogram(finding.values), (0, 0, 0, 1)))
        elif where := places_of(finding):
            lines.append(Text(visible(where), style="dim"))
        if finding.advice:
            lines.append(Text.assemble(("→ ", style), visible(finding.advice)))
        name = word if finding.level is not before else ""
        table.add_row(Text(mark, style=style), Text(name, style="bold"), Group(*lines))
        before = finding.level
    mark, style, word = _MARKS[Level.INFORM]
    for note in notes:
        name = word if before is not Level.INFORM else ""
        said = Text(visible(note[:1].upper() + note[1:]))
        table.add_row(Text(mark, style=style), Text(name, style="bold"), said)
        before = Level.INFORM
    words, style = verdict(findings)
    return Padding(Group(table, "", Text(words, style=style)), (1, 1))


def command(
    spec: Annotated[Path, typer.Argument(help="The spec; its data lies beside it.")],
    jobs_dir: Annotated[
        Path | None,
        typer.Option(
            "--jobs-dir",
            envvar="RUNNER_JOBS_DIR",
            readable=False,
            help="The inbox, if it lies in one.",
        ),
    ] = None,
    models_dir: ModelsDir = MODELS,
    json_wanted: AsJson = False,
) -> None:
    """Check a job's data: copies, contradictions, leaks and more.

    It exits with 1 when the job would be rejected.

    \b
    Example:
        runner check contracts.yaml
    """
    with prepared_from(spec, models_dir, jobs_dir, refused_too=True) as run:
        found, notes = read_findings(run.findings), notes_of(run)
    if json_wanted:
        print_json(as_json(found, notes))
    else:
        Console(highlight=False).print(render(found, notes))
    raise typer.Exit(1 if any(finding.level is Level.STOP for finding in found) else 0)
