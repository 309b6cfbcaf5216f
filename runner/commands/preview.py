"""Turns a spec, before it is dropped, into its rows exactly as the model would see them.

It runs the real prepare stage in a folder of its own that is gone afterwards, so what it shows is
what a run would train on, and its refusals are the ones that a run would get.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from runner.commands.validate import read_file
from runner.commands.words import visible_lines
from runner.contract.errors import RunnerError
from runner.contract.layout import RunFolder, StageFolder, new_run_id
from runner.contract.stage_io import PreparePlan, PrepareResult, read_message, write_message
from runner.contract.states import Stage

LOG_LINES = 15  # of the stage's log, shown when it fell over without an answer


@contextmanager
def prepared_from(spec_file: Path, models_dir: Path, jobs_dir: Path | None) -> Iterator[RunFolder]:
    """Run the prepare stage on a spec and give the run folder, which lives as long as the block.

    Raises:
        RunnerError: the spec or data cannot be used; the message is the stage's own.
    """
    spec = read_file(spec_file)
    folder = spec_file.absolute().parent
    root = (jobs_dir or folder).absolute()
    inside = folder == root or root in folder.parents
    with tempfile.TemporaryDirectory(prefix="runner-preview-") as temporary:
        run = RunFolder(Path(temporary) / spec.name / new_run_id())
        run.prepared.mkdir(parents=True)
        shutil.copyfile(spec_file, run.spec)
        plan = PreparePlan(
            models_dir=str(models_dir.absolute()),
            jobs_dir=str(root if inside else folder),
            spec_folder=str(folder.relative_to(root)) if inside else ".",
        )
        stage = StageFolder(run.prepared)
        write_message(stage.plan, plan)
        log = stage.log(Stage.PREPARE)
        with log.open("wb") as output:
            command = [sys.executable, "-m", "runner.training", Stage.PREPARE, str(run.prepared)]
            status = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
            ).returncode
        result = None
        if stage.result.exists():
            result = read_message(stage.result, PrepareResult)
        if result and result.error:
            raise RunnerError(result.error.message, advice=result.error.advice)
        if status != 0 or result is None:
            tail = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            raise RunnerError("the rows could not be prepared:\n" + "\n".join(tail))
        yield run


def summary(result: PrepareResult) -> str:
    """Say in one line what a run would train on."""
    parts = [
        f"{result.train_rows:,} rows to train on",
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
    from runner.training.preview import read_rows  # noqa: PLC0415  loads the tokenizer's library

    console = Console(highlight=False)
    console.print(Text(summary(read_message(StageFolder(run.prepared).result, PrepareResult))))
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
