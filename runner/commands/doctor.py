"""`runner doctor`: what is wrong with this box, and the command that fixes it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from runner.commands.options import (
    JOBS,
    MODELS,
    OUTPUTS,
    PAGE,
    AsJson,
    Device,
    JobsDir,
    ModelsDir,
    OutputsDir,
    PageDir,
    print_json,
    speaker,
)
from runner.contract.evaluation_tasks import VARIABLE
from runner.contract.page_key import read_key
from runner.contract.settings import Settings
from runner.doctor.engine import examine_engine
from runner.doctor.examine import examine_cards, examine_lightly
from runner.doctor.finding import Finding, Level, could_run
from runner.doctor.surroundings import beside_engine
from runner.errors import RunnerError
from runner.language.speaker import ENGLISH, Speaker
from runner.language.translate import in_words_of
from runner.words import visible, visible_lines

_MARKS = {
    Level.OK: ("✓", "green"),
    Level.ADVICE: ("!", "yellow"),
    Level.TROUBLE: ("✗", "bold red"),
    Level.UNKNOWN: ("?", "magenta"),
    Level.SKIPPED: ("–", "dim"),
}


def examine(settings: Settings, console: Console) -> list[Finding]:
    """Make every check; the console tells which one takes its time."""
    with console.status("Looking at this box …"):
        light = examine_lightly(settings)
    where = "card" if light.card_answers else "CPU"
    with console.status(f"Computing a small product on the {where} …"):
        found = [*light.findings, *examine_cards(settings, light)]
    if beside_engine(os.environ):
        with console.status("Asking Docker …"):
            found += examine_engine(card_on_host=light.card_answers)
    return found


def verdict(findings: Iterable[Finding]) -> tuple[str, str]:
    """Say in a sentence whether a job could run, and in which colour."""
    found = list(findings)
    runs = could_run(found)
    troubles = sum(finding.level is Level.TROUBLE for finding in found)
    advices = sum(finding.level is Level.ADVICE for finding in found)
    if runs is False:
        things = "one thing stands" if troubles == 1 else f"{troubles} things stand"
        return f"No job could run yet: {things} in the way (✗).", "bold red"
    if runs is None:
        return "Whether a job could run cannot be judged from here (?).", "bold magenta"
    if advices:
        things = "One thing" if advices == 1 else f"{advices} things"
        return f"A job could run. {things} would make it better (!).", "bold green"
    return "A job could run.", "bold green"


def findings_as_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """Give the same to a script."""
    found = list(findings)
    return {"could_run": could_run(found), "findings": [finding.as_json() for finding in found]}


def render(findings: Iterable[Finding], speak: Speaker = ENGLISH) -> RenderableType:
    """Lay the findings out: what is well in a line, the rest with its reason and its fix."""
    found = list(findings)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    before = ""
    for finding in found:
        mark, style = _MARKS[finding.level]
        name = in_words_of(finding.check, speak) if finding.check != before else ""
        before = finding.check
        lines = [Text(visible(in_words_of(finding.what, speak)))]
        if finding.level in (Level.ADVICE, Level.TROUBLE, Level.UNKNOWN):
            lines.append(Text(in_words_of(finding.why, speak), style="dim"))
            lines += [_command(line, speak) for line in finding.fix.splitlines()]
        table.add_row(Text(mark, style=style), Text(name, style="bold"), Group(*lines))
    words, style = verdict(found)
    return Padding(Group(table, "", Text(in_words_of(words, speak), style=style)), (1, 1))


def _command(line: str, speak: Speaker) -> Text:
    """Show a command as one types it, its remark less loud."""
    command, mark, remark = line.partition("    # ")
    remark = in_words_of(remark, speak)
    return Text.assemble(("$ ", "dim"), (command, "bold"), (f"  # {remark}" if mark else "", "dim"))


def print_findings(findings: Iterable[Finding]) -> None:
    """Print the page, in the language of whoever asks."""
    Console(highlight=False).print(render(findings, speaker()))


def print_page_key(folder: Path) -> None:
    """Show the key to the page, where the box has a page; scripts and logs are not told it."""
    try:
        key = read_key(folder)
    except RunnerError as error:
        print(f"{visible_lines(error.message)}\n{error.advice}")
        return
    if key:
        print(f"The key to the page: {key}")


def run_doctor(settings: Settings, *, quietly: bool) -> list[Finding]:
    """Make every check; ``quietly`` shows no progress, for scripts."""
    console = Console(file=io.StringIO()) if quietly else Console(stderr=True)
    return examine(settings, console)


def command(
    jobs_dir: JobsDir = JOBS,
    outputs_dir: OutputsDir = OUTPUTS,
    models_dir: ModelsDir = MODELS,
    page_dir: PageDir = PAGE,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with this box and the command that fixes it.

    It exits with 0 when a job could run.

    \b
    Example:
        runner doctor
    """
    settings = Settings(
        jobs_dir=jobs_dir.absolute(),
        outputs_dir=outputs_dir.absolute(),
        models_dir=models_dir.absolute(),
        device=device,
        gpus=os.environ.get("RUNNER_GPUS", ""),
        evaluation_tasks=os.environ.get(VARIABLE, "").strip(),
    )
    found = run_doctor(settings, quietly=as_json)
    if as_json:
        print_json(findings_as_json(found))
    else:
        print_findings(found)
        print_page_key(page_dir)
    raise typer.Exit(0 if could_run(found) else 1)
