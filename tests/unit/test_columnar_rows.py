"""Reads Parquet and Arrow files that were damaged or made to harm, and names the row."""

import io
import struct
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from runner.training.data import columnar_rows
from runner.training.data.findings import Findings
from runner.training.data.rows import read_rows

FORMS = ["parquet", "arrow"]


def write(table, form, **options):
    """Write a table with pyarrow."""
    sink = io.BytesIO()
    if form == "parquet":
        parquet.write_table(table, sink, **options)
    else:
        with pa.ipc.new_file(sink, table.schema, **options) as writer:
            writer.write_table(table)
    return sink.getvalue()


def read(tmp_path, content, form):
    """Read a file; give its rows with their numbers, and the problems."""
    path, findings = tmp_path / "copy", Findings()
    path.write_bytes(content)
    rows = read_rows(path, shown_as=f"a.{form}", findings=findings)
    return [(row.line, row.value) for row in rows], findings.problems


def texts(offsets, content):
    """Make a column of texts whose bytes and places nobody has checked."""
    where = pa.py_buffer(struct.pack(f"<{len(offsets)}i", *offsets))
    return pa.StringArray.from_buffers(len(offsets) - 1, where, pa.py_buffer(content))


@pytest.mark.parametrize("form", FORMS)
def test_a_row_that_is_not_utf8_is_named_and_the_others_are_read(form, tmp_path):
    """One damaged answer costs its own row."""
    table = pa.table({"question": ["q1", "q2", "q3"], "answer": texts([0, 1, 2, 3], b"a\xffc")})
    rows, (problem,) = read(tmp_path, write(table, form), form)
    assert [number for number, _ in rows] == [1, 3]
    assert (problem.lines, problem.unit) == ((2,), "row")
    assert "not UTF-8" in problem.message


def test_a_place_outside_the_file_ends_no_process(tmp_path):
    """Arrow takes a text's place as it stands in the file; here it lies 2 GB behind its end."""
    table = pa.table({"question": ["q1", "q2"], "answer": texts([0, 2**31 - 1, 2], b"ab")})
    rows, (problem,) = read(tmp_path, write(table, "arrow"), "arrow")
    assert rows == []
    assert problem.lines == (1, 2)


@pytest.mark.parametrize("form", FORMS)
def test_a_date_that_no_calendar_has_costs_its_row(form, tmp_path):
    """Python knows no day beyond the year 9999."""
    days = pa.array([0, 2**30], pa.int32()).cast(pa.date32())
    table = pa.table({"question": ["q1", "q2"], "answer": days})
    rows, (problem,) = read(tmp_path, write(table, form), form)
    assert [value["answer"] for _, value in rows] == [date(1970, 1, 1)]
    assert problem.lines == (2,)


@pytest.mark.parametrize("form", FORMS)
def test_a_number_of_32_bits_has_the_digits_that_were_written(form, tmp_path):
    """A label 0.1 is not learned as 0.10000000149011612: the digits are those of numpy."""
    numbers = [0.1, 2.7, 1e-30, 3e38, 1.0, None]
    table = pa.table({"question": list("abcdef"), "answer": pa.array(numbers, pa.float32())})
    rows, problems = read(tmp_path, write(table, form), form)
    assert not problems
    written = [None if n is None else float(str(np.float32(n))) for n in numbers]
    assert [value["answer"] for _, value in rows] == written == numbers


def test_a_compressed_batch_that_unpacks_to_gigabytes_is_stopped(tmp_path):
    """A file of some KB asks for 4 GiB at once; that is refused before any of it is taken."""
    long = pa.py_buffer(bytes(4 * 1024**3))  # never written to, so it takes no memory either
    where = pa.py_buffer(struct.pack("<2q", 0, len(long)))
    column = pa.LargeStringArray.from_buffers(1, where, long)
    few = pa.table({"question": ["q1"], "answer": pa.array(["a1"], pa.large_string())})
    packed = pa.ipc.IpcWriteOptions(compression="zstd")
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, few.schema, options=packed) as writer:
        writer.write_table(few)
        writer.write_table(pa.table({"question": ["q2"], "answer": column}))
    assert len(sink.getvalue()) < 500_000
    rows, (problem,) = read(tmp_path, sink.getvalue(), "arrow")
    assert rows == [(1, {"question": "q1", "answer": "a1"})]
    assert problem.lines == (2,)
    assert "more than 1024 MiB of memory at once" in problem.message


def test_long_rows_of_parquet_are_read_one_by_one(tmp_path, monkeypatch):
    """So that 64 rows of 50 MB are never in memory together."""
    counts = []
    plain = columnar_rows._next

    def noting(batches):
        batch, sound = plain(batches)
        counts.append(batch.num_rows)
        return batch, sound

    monkeypatch.setattr(columnar_rows, "_next", noting)
    answers = [np.random.default_rng(n).bytes(3_000_000).hex() for n in range(12)]
    table = pa.table({"question": [str(n) for n in range(12)], "answer": answers})
    rows, problems = read(tmp_path, write(table, "parquet"), "parquet")
    assert not problems
    assert [value["answer"] for _, value in rows] == answers
    assert max(counts) <= 5  # 32 MiB hold five of them
