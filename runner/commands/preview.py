"""`runner preview`: rows exactly as the model would see them, learned tokens marked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from runner.commands.options import (
    MODELS,
    OUTPUTS,
    AsJson,
    ModelsDir,
    OutputsDir,
    print_json,
    speaker,
)
from runner.commands.prepare_aside import prepared_from
from runner.contract.layout import Outputs, RunFolder, StageFolder
from runner.contract.preview import PreviewRow, Why, read_preview
from runner.contract.stage_io import PrepareResult, read_message
from runner.language.speaker import ENGLISH, Speaker
from runner.language.translate import in_words_of
from runner.words import visible, visible_lines


def summary(result: PrepareResult, speak: Speaker = ENGLISH) -> str:
    """Say in one line what a run would train on."""
    rows = speak("cli_rows", count=result.train_rows)
    parts = [
        speak("cli_rows_to_train_on", rows=rows),
        speak("cli_held_out", count=result.eval_rows),
        speak("cli_longest", count=result.longest),
        speak("cli_template", name=result.chat_template),
    ]
    if result.train_tokens:
        share = speak.percent(result.learned_tokens / result.train_tokens)
        parts.append(speak("cli_share_learned", share=share))
    if result.left_out_rows:
        parts.append(speak("cli_left_out", count=result.left_out_rows, most=result.max_length or 0))
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


def print_preview(run: RunFolder, rows: Sequence[PreviewRow], speak: Speaker = ENGLISH) -> None:
    """Print rows: learned tokens in green and brackets, control tokens bold, the rest dimmed.

    Every second token is underlined, so that one sees where each ends.
    """
    console = Console(highlight=False)
    result = read_message(StageFolder(run.prepared).result, PrepareResult)
    console.print(Text(summary(result, speak)))
    word = speak("cli_note")
    for note in result.shortfalls:
        said = f"{word[:1].upper()}{word[1:]}: {visible(in_words_of(note, speak))}"
        console.print(Text(said, style="yellow"))
    legend = (
        ("cli_learned_tokens_are", "dim"),
        ("cli_green_in_brackets", "green"),
        ("cli_control_tokens_are", "dim"),
        ("cli_bold", "bold"),
        ("cli_every_second", "dim"),
    )
    console.print(Text.assemble(*((speak(key), style) for key, style in legend)))
    for row in rows:
        console.print()
        said = speak("preview_row", row=row.row, tokens=row.tokens, learned=row.learned_tokens)
        why = f" ({', '.join(speak(f'why_{one}') for one in row.why)})" if row.why else ""
        console.rule(f"{said}{why}")
        console.print(_text(row, speak))


def _text(row: PreviewRow, speak: Speaker) -> Text:
    text, learned = Text(), False
    for place, token in enumerate(row.shown):
        if row.left_out and place == row.left_out_after:
            text.append(speak("cli_more_tokens", count=row.left_out), style="yellow")
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
            print_preview(run, shown, speaker())
