"""`runner preview`: rows exactly as the model would see them, learned tokens marked."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from runner.commands.options import MODELS, AsJson, ModelsDir, print_json
from runner.commands.prepare_aside import prepared_from
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.stage_io import PrepareResult, read_message
from runner.training.data.preview import read_rows
from runner.words import visible, visible_lines


def summary(result: PrepareResult) -> str:
    """Say in one line what a run would train on."""
    parts = [
        f"{result.train_rows:,} {'row' if result.train_rows == 1 else 'rows'} to train on",
        f"{result.eval_rows:,} held out",
        f"longest {result.longest:,} tokens",
        f"template: {result.chat_template}",
    ]
    if result.train_tokens:
        parts.append(f"{result.learned_tokens / result.train_tokens:.0%} of the tokens learned")
    if result.left_out_rows:
        parts.append(f"{result.left_out_rows:,} left out (longer than {result.max_length:,})")
    return " · ".join(parts)


def print_preview(run: RunFolder, rows: int) -> None:
    """Print the first rows, learned tokens in green and underlined, the rest dimmed."""
    from runner.training.data.preview import read_rows  # noqa: PLC0415  loads the tokenizer's library

    console = Console(highlight=False)
    result = read_message(StageFolder(run.prepared).result, PrepareResult)
    console.print(Text(summary(result)))
    for note in result.shortfalls:
        console.print(Text(f"Note: {visible(note)}", style="yellow"))
    console.print(Text("Learned tokens are ", style="dim"), end="")
    console.print(Text("green and in ⟦ ⟧", style="green"), end="")
    console.print(Text("; the model only reads the rest.", style="dim"))
    for row in read_rows(run.prepared, rows):
        console.print()
        console.rule(f"row {row.row}: {row.tokens} tokens, {row.learned_tokens} learned")
        text = Text()
        for part in row.parts:
            shown = visible_lines(part.text)
            if part.learned:
                text.append("⟦" + shown + "⟧", style="green")
            else:
                text.append(shown, style="dim")
        console.print(text)


def command(
    spec: Annotated[Path, typer.Argument(help="The spec; its data lies beside it.")],
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="How many rows to show.")] = 3,
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
    as_json: AsJson = False,
) -> None:
    """Show rows as the model sees them, the learned tokens marked.

    \b
    Example:
        runner preview contracts.yaml --rows 5
    """
    with prepared_from(spec, models_dir, jobs_dir) as run:
        if as_json:
            print_json([asdict(row) for row in read_rows(run.prepared, rows)])
        else:
            print_preview(run, rows)
