"""`runner preview`: rows exactly as the model would see them, learned tokens marked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from runner.commands.options import MODELS, OUTPUTS, AsJson, ModelsDir, OutputsDir, print_json
from runner.commands.prepare_aside import prepared_from
from runner.contract.layout import Outputs, RunFolder, StageFolder
from runner.contract.preview import PreviewRow, Why, read_preview
from runner.contract.stage_io import PrepareResult, read_message
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


def rows_of(run: RunFolder, count: int | None) -> tuple[PreviewRow, ...]:
    """Give the rows that the report shows, too; or, where asked for, the first so many."""
    if count is None:
        preview = read_preview(run.preview)
        return preview.rows if preview else ()
    from runner.training.data.preview import read_rows  # noqa: PLC0415  loads the tokenizer's library
    from runner.training.data.tokenizer_folder import load_tokenizer  # noqa: PLC0415

    chosen = {place: (Why.FIRST,) * (not place) for place in range(count)}
    return tuple(read_rows(run.prepared, load_tokenizer(run.prepared / "tokenizer"), chosen))


def as_object(row: PreviewRow) -> dict[str, Any]:
    """Give a row for programs: its parts, learned and not, and every token of them."""
    parts = [
        {"text": "".join(token.text for token in tokens), "learned": learned}
        for learned, tokens in groupby(row.shown, key=lambda token: token.learned)
    ]
    return {**row.model_dump(mode="json"), "parts": parts}


def print_preview(run: RunFolder, rows: Sequence[PreviewRow]) -> None:
    """Print rows: learned tokens in green and brackets, control tokens bold, the rest dimmed.

    Every second token is underlined, so that one sees where each ends.
    """
    console = Console(highlight=False)
    result = read_message(StageFolder(run.prepared).result, PrepareResult)
    console.print(Text(summary(result)))
    for note in result.shortfalls:
        console.print(Text(f"Note: {visible(note)}", style="yellow"))
    console.print(Text("Learned tokens are ", style="dim"), end="")
    console.print(Text("green and in ⟦ ⟧", style="green"), end="")
    console.print(Text("; the model only reads the rest. Control tokens are ", style="dim"), end="")
    console.print(Text("bold", style="bold"), end="")
    console.print(Text(", every second token is underlined.", style="dim"))
    for row in rows:
        console.print()
        why = f" ({', '.join(row.why)})" if row.why else ""
        console.rule(f"row {row.row}{why}: {row.tokens} tokens, {row.learned_tokens} learned")
        console.print(_text(row))


def _text(row: PreviewRow) -> Text:
    text, learned = Text(), False
    for place, token in enumerate(row.shown):
        if row.left_out and place == row.left_out_after:
            text.append(f" … {row.left_out:,} more tokens … ", style="yellow")
        if token.learned != learned:
            text.append("⟦" if token.learned else "⟧", style="green")
            learned = token.learned
        style = "green" if token.learned else "dim"
        style += " bold" * token.special + " underline" * (place % 2)
        text.append(visible_lines(token.text), style=style)
    text.append("⟧" * learned, style="green")
    return text


def command(
    spec: Annotated[Path, typer.Argument(help="The spec; its data lies beside it.")],
    rows: Annotated[
        int | None,
        typer.Option("--rows", "-n", min=1, help="So many of the first rows instead of a choice."),
    ] = None,
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
    outputs_dir: OutputsDir = OUTPUTS,
    as_json: AsJson = False,
) -> None:
    """Show rows as the model sees them, the learned tokens marked.

    The first, the longest, the shortest and a few random ones, as in a run's report.

    \b
    Example:
        runner preview contracts.yaml --rows 5
    """
    with prepared_from(spec, models_dir, jobs_dir, outputs=Outputs(outputs_dir)) as run:
        shown = rows_of(run, rows)
        if as_json:
            print_json([as_object(row) for row in shown])
        else:
            print_preview(run, shown)
