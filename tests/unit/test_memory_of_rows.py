"""What preparing keeps of each row: so little that ten gigabytes of rows fit an office machine."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from runner.training.checks import checks as checks_module
from runner.training.checks.checks import Checks
from runner.training.checks.facts import FACTS
from runner.training.checks.say import End
from runner.training.data.arrow_arrays import to_arrow
from runner.training.data.findings import Findings
from runner.training.data.growth import compare
from runner.training.data.pack import count_sequences
from runner.training.data.questions import Wanted, choose
from runner.training.data.split import hold_out
from runner.training.data.token_table import Rows, TableWriter, open_row_table, rows_schema

ROWS = 200_000
MOST = 100
"""Bytes a row, at the worst moment: 10 GB of rows of 1.5 KB are 7 million, and this 700 MB."""
END = End(held_out=np.arange(0, ROWS, 20), max_length=690, epochs=3, ending=frozenset({2}))


def facts() -> np.ndarray:
    """Make what the checks keep of rows; some ask the same, some are copies, some answer alike."""
    dice = np.random.default_rng(5)
    made: np.ndarray = np.zeros(ROWS, FACTS)
    made["number"] = made["line"] = np.arange(ROWS)
    made["tokens"] = made["read"] = dice.integers(50, 700, ROWS)
    made["learned"], made["last"], made["characters"] = 20, 2, 900
    made["answer_words"], made["language"] = 40, 1 + (made["line"] % 50 == 0)
    for name in ("question", "answer", "content"):
        made[name] = dice.integers(0, ROWS * 4, ROWS)
    return made


def fed(checks: Checks, made: np.ndarray) -> Checks:
    """Let an accumulator take rows as they come from the workers."""
    for start in range(0, ROWS, 256):
        batch = Checks()
        batch._files = {"a.jsonl": 0}
        batch._facts = [made[start : start + 256].copy()]
        checks.merge(batch)
    return checks


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a table of rows, in batches."""
    path, dice = tmp_path_factory.mktemp("rows") / "rows.arrow", np.random.default_rng(6)
    schema = rows_schema(parted=False)
    writer = TableWriter(path, schema)
    for start in range(0, ROWS, 5000):
        rows = np.arange(start, start + 5000)
        columns = dict.fromkeys(schema.names, rows)
        columns |= {"place": dice.random(5000), "longest": dice.integers(50, 700, 5000)}
        columns |= {"askable": rows >= 0, "file": rows * 0}
        arrays = [to_arrow(columns[field.name], field.type) for field in schema]
        writer.write(pa.record_batch(arrays, schema=schema))
    writer.close()
    return path


def peak(do: Callable[[], Any]) -> float:
    """Say how many bytes a row something takes beyond what was there before."""
    tracemalloc.start()
    try:
        do()
        return tracemalloc.get_traced_memory()[1] / ROWS
    finally:
        tracemalloc.stop()


def test_what_checks_keep_lies_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """70 bytes a row would be half a gigabyte; what is said of the rows is the same."""
    made = facts()
    kept = fed(Checks(), made)
    monkeypatch.setattr(checks_module, "_IN_MEMORY", 20_000)
    aside = Checks(tmp_path)
    assert peak(lambda: fed(aside, made)) < 20
    assert peak(lambda: aside.findings(END)) < MOST
    assert aside.findings(END) == kept.findings(END)
    aside.save(tmp_path / "checks.npz")
    assert Checks.load(tmp_path / "checks.npz").findings(END) == kept.findings(END)
    assert [path.name for path in tmp_path.iterdir()] == ["checks.npz"], "the file has no name"


def test_rows_that_came_in_another_order_are_put_in_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they lie on the disk."""
    made = facts()
    kept = fed(Checks(), made)
    monkeypatch.setattr(checks_module, "_IN_MEMORY", 20_000)
    assert fed(Checks(tmp_path), made[::-1]).findings(END) == kept.findings(END)


def _hold_out(rows: Rows) -> Any:
    return hold_out(rows.place, None)


def _choose(rows: Rows) -> Any:
    part = np.zeros(ROWS, "int8")
    part[::20] = 1
    return choose(rows, part, Wanted(answered=100, examples=3, seed=1))


def _pack(rows: Rows) -> Any:
    return count_sequences(rows.longest, 2048)


@pytest.mark.parametrize("do", [_hold_out, _choose, _pack])
def test_a_step_over_all_rows_makes_no_list_of_them(do: Callable[[Rows], Any], table: Path) -> None:
    """A list of numbers takes 36 bytes for each, and one of places in files 150."""
    rows = open_row_table(table)
    assert len(rows) == ROWS
    assert peak(lambda: do(rows)) < MOST / 2


def test_comparing_two_runs_keeps_both_on_the_disk(table: Path) -> None:
    """Twice as many rows: those of the last run, too."""
    rows = open_row_table(table)
    assert peak(lambda: compare(open_row_table(table), rows)) < MOST


def test_a_file_without_a_good_row_is_listed_from_its_beginning(tmp_path: Path) -> None:
    """The list of bad rows has an end; file after file, whichever line was met first."""
    findings = Findings(files=("b.jsonl", "a.jsonl"))
    for line in range(ROWS, 0, -1):
        findings.add("a.jsonl", line, "the line is not valid JSON", hint=None)
    findings.add("b.jsonl", 7, "the line is not valid JSON", hint=None)
    findings.write_bad_rows(tmp_path)
    listed = (tmp_path / "bad_rows.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in listed[:3]] == [
        "b.jsonl, line 7",
        "a.jsonl, line 1",
        "a.jsonl, line 2",
    ]
    assert len(listed) == 100_000
