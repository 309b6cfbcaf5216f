"""`runner rate`: a table of blind pairs of answers, for an expert to mark in the shared folder."""

from __future__ import annotations

import csv
import io
import json
import re
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.commands.find_run import find_run
from runner.commands.options import (
    JOBS,
    OUTPUTS,
    AsJson,
    JobsDir,
    OutputsDir,
    Run,
    print_json,
)
from runner.commands.starters import excel_file
from runner.contract.layout import RATE, Outputs, RunFolder, rate_name, rate_names
from runner.contract.promotions import current_run
from runner.contract.rating import BETTER, FIRST, PAIR, QUESTION, SECOND, Key, row_hash
from runner.errors import RunnerError
from runner.files.beneath import Folder
from runner.files.durable import write_json
from runner.files.plain import read_plain
from runner.words import counted

_ANSWERS_BYTES = 256 * 1024 * 1024
_PAIRS = 40  # an hour's work; with 30 decided ones, 21 to 9 is shown to be better
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is a formula to a spreadsheet."""
_CELL_CHARS = 32_767  # Excel's own limit: it calls a file with more of them broken
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold."""


class CannotRateError(RunnerError):
    """There are no answers to rate."""

    kind = "cannot_rate"


def read_answers(run: RunFolder) -> list[dict[str, Any]]:
    """Read what each model answered to the held-out questions.

    Raises:
        CannotRateError: there is nothing to read.
    """
    try:
        content = read_plain(run.evaluation / "answers.jsonl", limit_bytes=_ANSWERS_BYTES)
        return [json.loads(line) for line in content.splitlines()]
    except (OSError, ValueError):
        raise CannotRateError(
            f"{run.job}/{run.run_id} has no generated answers to held-out questions",
            advice="Give its spec `evaluation: {samples: 100}`, then `runner evaluate` it again.",
        ) from None


def make_pairs(
    answers: list[dict[str, Any]], most: int, current: str | None
) -> tuple[list[list[str]], Key]:
    """Choose pairs in random order, each in random order, and make the key to them."""
    against = "current" if any("current" in one for one in answers) else "base"
    there = [one for one in answers if "adapter" in one and against in one]
    differ = [one for one in there if one["adapter"].strip() != one[against].strip()]
    dice = secrets.SystemRandom()
    chosen = dice.sample(differ, min(most, len(differ)))
    rows: list[list[str]] = []
    new_first, hashes = [], []
    for number, one in enumerate(chosen, start=1):
        first = dice.random() < 0.5
        pair = [one["adapter"], one[against]]
        rows.append([str(number), *map(_cell, [one["question"], *(pair if first else pair[::-1])])])
        new_first.append(first)
        hashes.append(row_hash(*rows[-1][1:]))
    key = Key(
        against="current" if against == "current" else "base",
        against_run=current if against == "current" else None,
        new_first=tuple(new_first),
        rows=tuple(hashes),
        same=len(there) - len(differ),
    )
    return rows, key


def _cell(text: object) -> str:
    said = str(text)
    return f"'{said}" if said.startswith(_FORMULA) else said


def as_table(rows: list[list[str]], *, separator: str) -> bytes:
    """Write the table as spreadsheets of this language open it."""
    file = io.StringIO(newline="")
    table = csv.writer(file, delimiter=separator)
    table.writerow([PAIR, QUESTION, FIRST, SECOND, BETTER])
    table.writerows([*row, ""] for row in rows)
    return file.getvalue().encode("utf-8-sig", errors="replace")


def as_workbook(rows: list[list[str]]) -> bytes:
    """Write the table for Excel and LibreOffice: every cell is text, none a formula."""
    titles = (PAIR, QUESTION, FIRST, SECOND, BETTER)
    cells = [tuple(_NO_XML.sub(" ", cell)[:_CELL_CHARS] for cell in (*row, "")) for row in rows]
    return excel_file([titles, *cells])


def command(
    name: Run,
    jobs_dir: JobsDir = JOBS,
    outputs_dir: OutputsDir = OUTPUTS,
    pairs: Annotated[int, typer.Option(min=1, max=1000, help="How many pairs.")] = _PAIRS,
    semicolons: Annotated[
        bool, typer.Option("--semicolons", help="For spreadsheets in German, French, …")
    ] = False,
    excel: Annotated[
        bool, typer.Option("--excel", help="An .xlsx file: no separators, no encoding.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write blind pairs of answers for an expert to mark.

    The table lies in jobs/rate/. Each row has a question and two answers in random order: the run's
    and those of the adapter in use, or the base model's. Mark 1, 2 or = in the last column and save
    it: the box counts the marks when every pair has one, and a spec with `promote: {when:
    approved}` goes by them.

    \b
    Example:
        runner rate contracts --pairs 40 --excel
    """
    outputs = Outputs(outputs_dir)
    run = find_run(outputs, name)
    current = current_run(outputs, run.job)
    rows, key = make_pairs(read_answers(run), pairs, None if current == run.run_id else current)
    if not rows:
        raise CannotRateError(
            f"{run.job}/{run.run_id}: both gave the same answer to each question ({key.same})",
            advice="There is nothing to choose between.",
        )
    file_name = rate_name(run.job, run.run_id, "xlsx" if excel else "csv")
    table = as_workbook(rows) if excel else as_table(rows, separator=";" if semicolons else ",")
    with Folder.open(jobs_dir) as inbox, inbox.make_folders(RATE, mode=0o770) as folder:
        ours = set(rate_names(run.job, run.run_id))
        if there := sorted(ours & set(folder.names())):  # its key would no longer fit
            raise CannotRateError(
                f"jobs/{RATE}/{there[0]} is there already, perhaps with marks",
                advice="Delete it to start again.",
            )
        run.rating.mkdir(exist_ok=True)
        write_json(run.rating_key, key.model_dump(mode="json"))  # first: without it no mark counts
        folder.write_bytes(file_name, table)
    where = Path(jobs_dir) / RATE / file_name
    facts = {"job": run.job, "run_id": run.run_id, "file": str(where), "pairs": len(rows)}
    if as_json:
        print_json({**facts, "against": key.against_run or "base"})
    else:
        print(
            f"{where}: {counted(len(rows), 'pair')}. Mark 1, 2 or = in its last column and save "
            "it there."
        )
        print(f"The answer comes beside it: {file_name}.txt")
