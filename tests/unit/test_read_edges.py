"""Reads what lies on an edge: a character across two blocks, midnight, the longest cell."""

import gzip
import io
import json
import zipfile
from datetime import datetime, time

import pyarrow as pa
import pytest

from runner.commands.starters import excel_file
from runner.training.data import sheet_rows
from runner.training.data.cells import BadRowError, as_text, missing
from runner.training.data.findings import Findings
from runner.training.data.rows import read_rows
from runner.training.data.sheet_child import as_shown, choose
from runner.training.data.text_source import BLOCK


def read(tmp_path, name, content):
    """Read a file; give its rows, and the problems."""
    path, findings = tmp_path / "copy", Findings()
    path.write_bytes(content)
    rows = read_rows(path, shown_as=name, findings=findings)
    return [row.value for row in rows], findings.problems


@pytest.mark.parametrize("letter", ["ä", "€", "\U0001f600"])
@pytest.mark.parametrize("shift", range(4))
def test_a_character_across_two_blocks_of_a_long_line_is_whole(letter, shift, tmp_path):
    """A line longer than a block is cut between characters, wherever the block ends."""
    row = {"question": "q" + "x" * shift, "answer": letter * (BLOCK // 2)}
    content = f"{json.dumps(row, ensure_ascii=False)}\n".encode()
    assert read(tmp_path, "a.jsonl", content) == ([row], [])


def test_what_follows_the_end_of_an_array_is_said(tmp_path):
    """Two arrays that were joined: the second one would be lost in silence."""
    rows = [{"question": f"q{n}", "answer": "a"} for n in range(2)]
    content = f"{json.dumps(rows, indent=1)}\n{json.dumps(rows)}".encode()
    _, (problem,) = read(tmp_path, "a.json", content)
    assert problem.message == "there is more after the end of the JSON array"
    assert problem.line == 11


def test_a_spreadsheet_that_is_too_large_without_compression_is_refused(tmp_path, monkeypatch):
    """Its parts count by what they hold, also where nothing is compressed."""
    made = io.BytesIO()
    with (
        zipfile.ZipFile(
            io.BytesIO(excel_file([("question", "answer"), ("q", "x" * 90_000)]))
        ) as old,
        zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name in old.namelist():
            archive.writestr(name, old.read(name))
    rows, problems = read(tmp_path, "a.xlsx", made.getvalue())
    assert (len(rows), problems) == (1, [])
    monkeypatch.setattr(sheet_rows, "MOST_BYTES", 80_000)
    _, (problem,) = read(tmp_path, "a.xlsx", made.getvalue())
    assert "unpacks to more than" in problem.message


def test_a_sheet_is_found_by_its_letters_only_where_one_has_them():
    """Of two sheets that differ in case alone, neither is taken for a third spelling."""
    assert choose(["Cover", "Rows"], "rows", []) == "Rows"
    assert choose(["ROWS", "Rows"], "rows", []) is None
    assert choose(["ROWS", "Rows"], "Rows", []) == "Rows"


def test_a_cell_is_read_as_excel_shows_it():
    """A day has no midnight, and a whole number no point; 2**53 is where they stop being exact."""
    day = datetime(2026, 11, 28)  # noqa: DTZ001  a sheet knows no time zones
    assert as_shown(day) == "2026-11-28"
    assert as_shown(day.replace(hour=10, minute=30)) == "2026-11-28 10:30:00"
    assert as_shown(time(10, 30)) == "10:30:00"
    assert [as_shown(n) for n in (3.0, 3.25, 123456.0, True)] == ["3", "3.25", "123456", "true"]


def test_a_value_that_stands_for_every_row_of_an_arrow_file_is_counted_each_time(tmp_path):
    """A megabyte in a dictionary, and a thousand rows of four bytes: a gigabyte comes out."""
    answers = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), ["x" * 2**20])
    table = pa.table({"question": [str(n) for n in range(1000)], "answer": answers})
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    rows, (problem,) = read(tmp_path, "a.arrow", sink.getvalue())
    assert "unpacks to more than" in problem.message
    assert len(rows) < 300


def test_a_text_as_long_as_a_cell_of_excel_is_said_to_be_cut():
    """32,767 UTF-16 units, as Microsoft documents; one less or one more, nothing was cut."""
    for text in ("x" * 32_767, "\U0001f600" * 16_383 + "x"):
        with pytest.raises(BadRowError, match="seems cut off"):
            as_text(text, "answer")
        assert as_text(text[:-1], "answer") == text[:-1]
        assert as_text(f"{text}x", "answer") == f"{text}x"


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.9])
def test_a_gzip_file_with_a_damaged_middle_is_refused(place, tmp_path):
    """A bad sector within the packed text: zlib says so in its own way, and no row is made up."""
    row = {"question": "q", "answer": " ".join(str(n * n) for n in range(2000))}
    packed = bytearray(gzip.compress(f"{json.dumps(row)}\n".encode()))
    at = 10 + int((len(packed) - 10) * place)  # behind gzip's own header
    packed[at : at + 64] = b"\xff" * 64  # at the beginning, a kind of block that does not exist
    rows, problems = read(tmp_path, "a.jsonl.gz", bytes(packed))
    assert rows == []
    assert any("cannot be unpacked" in problem.message for problem in problems)


def test_what_nobody_sees_is_no_answer():
    """Zero-width characters and no-break blanks, as web pages leave them."""
    for text in ("", "\u200b", "\ufeff \u200b", "\xa0\u2060", "\u2800", "\u3164 \u3164"):
        assert missing(text)
    assert not missing("\u200bx")
