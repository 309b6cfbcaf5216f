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

from runner.commands.options import MODELS, AsJson, ModelsDir, print_json, speaker
from runner.commands.prepare_aside import prepared_from
from runner.contract.findings import DataFinding, Level, name_places, read_findings, said_in
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.stage_io import PrepareResult, read_message
from runner.language.speaker import ENGLISH, Language, Speaker
from runner.language.translate import in_words_of
from runner.report.findings import sentence_in
from runner.words import visible

_MARKS = {
    Level.STOP: ("✗", "bold red"),
    Level.ADVISE: ("!", "bold yellow"),
    Level.INFORM: ("·", "cyan"),
}
_BAR = 40  # characters of the longest bar


def verdict(findings: Sequence[DataFinding], speak: Speaker = ENGLISH) -> tuple[str, str]:
    """Say in a sentence whether the job could run with this data, and in which colour."""
    stops, advice = (
        sum(finding.level is level for finding in findings) for level in (Level.STOP, Level.ADVISE)
    )
    if stops:
        return speak("cli_rejected", count=stops), "bold red"
    said = speak("cli_with_advice", count=advice) if advice else speak("cli_no_advice")
    return said, "bold green"


def as_json(findings: Sequence[DataFinding], notes: Sequence[str]) -> dict[str, Any]:
    """Give the same to a script."""
    return {
        "could_run": not any(finding.level is Level.STOP for finding in findings),
        "findings": [finding.model_dump(mode="json") for finding in findings],
        "notes": list(notes),
    }


def places_of(finding: DataFinding, speak: Speaker = ENGLISH) -> str:
    """Name the examples, and how many more there are."""
    more = finding.count - len(finding.places)
    named = name_places(finding, speak)
    return speak("cli_places_more", places=named, count=more) if named and more > 0 else named


def bars(
    values: Mapping[str, str | int | float], speak: Speaker = ENGLISH
) -> list[tuple[str, int]]:
    """Read a histogram out of a finding's figures: the upper end of each bar, and its rows."""
    ends = [(key.removeprefix("to_"), value) for key, value in values.items()]
    return [
        (speak("cli_longer") if end == "longer" else speak("cli_to_tokens", count=int(end)), rows)
        for end, rows in ends
        if isinstance(rows, int) and (end.isdigit() or end == "longer")
    ]


def histogram(values: Mapping[str, str | int | float], speak: Speaker = ENGLISH) -> RenderableType:
    """Draw how many rows have how many tokens, from the first bar to the last that has any."""
    found = bars(values, speak)
    held = [place for place, (_, rows) in enumerate(found) if rows]
    shown = found[held[0] : held[-1] + 1] if held else []
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style="dim")
    table.add_column()
    most = max((rows for _, rows in shown), default=1)
    for name, rows in shown:
        bar = "█" * round(_BAR * rows / most) or ("▏" if rows else "")
        table.add_row(name, Text.assemble((bar, "cyan"), f" {speak.whole(rows)}"))
    return table


def notes_of(run: RunFolder) -> tuple[str, ...]:
    """Read what the run's answer would tell beside the findings: columns not read, for one."""
    result = StageFolder(run.prepared).result
    # Data that is refused leaves no result: its findings say why.
    return read_message(result, PrepareResult).shortfalls if result.exists() else ()


def render(
    findings: Sequence[DataFinding], notes: Sequence[str] = (), speak: Speaker = ENGLISH
) -> RenderableType:
    """Lay the findings out: what was found, where, and what to do; then the notes."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    before: Level | None = None
    for finding in findings:
        mark, style = _MARKS[finding.level]
        lines: list[RenderableType] = [Text(visible(_said(finding, finding.message, "", speak)))]
        if finding.check == "token_lengths":
            lines.append(Padding(histogram(finding.values, speak), (0, 0, 0, 1)))
        elif where := places_of(finding, speak):
            lines.append(Text(visible(where), style="dim"))
        if finding.advice:
            advice = _said(finding, finding.advice, "advice", speak)
            lines.append(Text.assemble(("→ ", style), visible(advice)))
        name = speak(f"cli_level_{finding.level}") if finding.level is not before else ""
        table.add_row(Text(mark, style=style), Text(name, style="bold"), Group(*lines))
        before = finding.level
    mark, style = _MARKS[Level.INFORM]
    for note in notes:
        name = speak("cli_level_inform") if before is not Level.INFORM else ""
        said = Text(visible(_as_sentence(in_words_of(note, speak))))
        table.add_row(Text(mark, style=style), Text(name, style="bold"), said)
        before = Level.INFORM
    words, style = verdict(findings, speak)
    return Padding(Group(table, "", Text(words, style=style)), (1, 1))


def _said(finding: DataFinding, english: str, what: str, speak: Speaker) -> str:
    """Say a finding, or its advice, as the table of texts has it; else as the check worded it."""
    if speak.language is Language.ENGLISH:
        return english
    return (
        said_in(finding, speak, what) or sentence_in(english, speak) or in_words_of(english, speak)
    )


def _as_sentence(note: str) -> str:
    """Begin a note as a sentence does; a field of the spec keeps its name."""
    return note if "_" in note.split(" ", 1)[0] else f"{note[:1].upper()}{note[1:]}"


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
        Console(highlight=False).print(render(found, notes, speaker()))
    raise typer.Exit(1 if any(finding.level is Level.STOP for finding in found) else 0)
