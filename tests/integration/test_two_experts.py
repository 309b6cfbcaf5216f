"""Two tables of one run: two experts, or one who saved the CSV as a spreadsheet beside it."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

from daemon_box import Box, wait_until
from typer.testing import CliRunner

from runner.cli import app
from runner.commands.starters import excel_file
from runner.contract.states import State


def _marked(rows: list[list[str]], *, new_is_better: bool) -> list[list[str]]:
    marks = [("1" if row[2][0] == "A" else "2", "2" if row[2][0] == "A" else "1") for row in rows]
    return [[*row[:-1], mark[not new_is_better]] for row, mark in zip(rows, marks, strict=True)]


def test_the_table_that_was_saved_last_counts_after_a_restart_too(tmp_path: Path) -> None:
    """Each says which one counts; one without marks never does."""
    box = Box(tmp_path)
    (box.jobs / "contracts.jsonl").write_text("{}")
    box.drop_spec("contracts", "promote: {when: approved}\n")
    with box.watching():
        wait_until(lambda: box.in_state(State.SUCCEEDED))
        wait_until(lambda: list((box.jobs / "done").glob("*.txt")))
        run = box.outputs.run("contracts", box.record().run_id)
        lines = [{"question": f"Q{n}", "adapter": f"A{n}", "base": f"B{n}"} for n in range(20)]
        (run.evaluation / "answers.jsonl").write_text("\n".join(map(json.dumps, lines)))
        words = ["rate", "contracts", "--jobs-dir", str(box.jobs)]
        found = CliRunner().invoke(app, [*words, "--outputs-dir", str(box.outputs.root)])
        assert found.exit_code == 0, found.output
        (table,) = (box.jobs / "rate").glob("rate-contracts--*.csv")
        sheet, told = table.with_suffix(".xlsx"), table.with_name(f"{table.name}.txt")
        with table.open(encoding="utf-8-sig", newline="") as file:
            titles, *rows = csv.reader(file)
        worse = _marked(rows, new_is_better=False)
        sheet.write_bytes(excel_file([tuple(titles), *map(tuple, worse)]))
        wait_until(lambda: (rating := box.record().rating) and rating.worse == 20)
        with table.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([titles, *_marked(rows, new_is_better=True)])
        wait_until(lambda: box.record().rating.better == 20)  # type: ignore[union-attr]
        wait_until(
            lambda: told.exists() and "found its answer the better one 20 times" in told.read_text()
        )
        wait_until(lambda: os.path.lexists(box.outputs.current("contracts")))
    marked_at = box.record().rating
    assert marked_at is not None
    for path in (table, sheet):
        path.with_name(f"{path.name}.txt").unlink()
    with box.watching():
        told_sheet = sheet.with_name(f"{sheet.name}.txt")
        wait_until(lambda: told_sheet.exists() and told.exists())
        wait_until(lambda: f"its marks count: {table.name}" in told_sheet.read_text())
        assert "20 times" in told.read_text()
    assert box.record().rating == marked_at
    assert os.readlink(box.outputs.current("contracts")) == run.run_id
