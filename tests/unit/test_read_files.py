"""Reads files as offices, spreadsheets and pandas write them, or says the exact change."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from datetime import timedelta

import pyarrow as pa
import pytest
from pyarrow import parquet

from runner.commands.starters import excel_file
from runner.spec.read_spec import read_spec
from runner.training.data import json_rows, sheet_rows, unpack
from runner.training.data.findings import Findings
from runner.training.data.flow import Source, first_rules, read_again
from runner.training.data.formats import to_conversations
from runner.training.data.rows import read_rows, stream_rows
from runner.training.data.snapshot import Copied

ROWS = [{"question": "q1", "answer": "a1"}, {"question": "q2", "answer": "a2"}]
TALK = [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}]


def learn(tmp_path, name, content):
    """Read a file; give question and answer of each row with its line, and what was found."""
    path, findings = tmp_path / "copy", Findings()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = read_rows(path, shown_as=name, findings=findings)
    found = to_conversations(rows, data_format="auto", system_prompt=None, findings=findings)
    pairs = [(c.line, *(m["content"] for m in c.messages)) for c in found]
    return pairs, findings


def tar():
    """Pack a file of rows as tar does."""
    packed, content = io.BytesIO(), json.dumps(ROWS).encode()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("rows.json")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def columns(*rows):
    """Write rows as pandas does: by columns."""
    return {name: {str(n): row[name] for n, row in enumerate(rows)} for name in rows[0]}


TABLES = {
    "sep line": ("a.csv", "\ufeffsep=;\r\nquestion;answer\r\nq1;a1\r\nq2;a2\r\n", [3, 4]),
    "sep line in quotes": ("a.csv", '"sep=;"\nquestion;answer\nq1;a1\nq2;a2\n', [3, 4]),
    "sep line with a comma": ("a.csv", "sep=,\nquestion,answer\nq1,a1\nq2,a2\n", [3, 4]),
    "sep line with a tab": ("a.csv", "sep=\t\nquestion\tanswer\nq1\ta1\nq2\ta2\n", [3, 4]),
    "capital SEP": ("a.csv", "SEP=;\nquestion;answer\nq1;a1\nq2;a2\n", [3, 4]),
    "tabs named csv": ("a.csv", "question\tanswer\nq1\ta1\nq2\ta2\n", [2, 3]),
    "semicolons named tsv": ("a.tsv", "question;answer\nq1;a1\nq2;a2\n", [2, 3]),
    "bars": ("a.csv", "question|answer\nq1|a1\nq2|a2\n", [2, 3]),
    "a comma in the heading": ("a.csv", '"notes, old, new";question;answer\nx;q1;a1\ny;q2;a2\n', 0),
    "empty columns": ("a.csv", "question;answer;;;\r\nq1;a1;;;\r\nq2;a2;;;\r\n", [2, 3]),
    "empty columns cut": ("a.csv", "question;answer;;;\r\nq1;a1;;;\r\nq2;a2\r\n", [2, 3]),
    "empty named column": ("a.csv", "question;answer;notes\r\nq1;a1\r\nq2;a2;\r\n", [2, 3]),
    "empty columns in rows": ("a.csv", "question,answer\nq1,a1,,\nq2,a2,,\n", [2, 3]),
    "empty lines": ("a.csv", "\n\nquestion,answer\n\nq1,a1\n,\n\nq2,a2\n", [5, 8]),
    "a title": ("a.csv", "Tenancy questions 2026\nquestion,answer\nq1,a1\nq2,a2\n", [3, 4]),
    "a title with columns": (
        "a.csv",
        "Our list;;\r\n;;\r\nquestion;answer;\r\nq1;a1;\r\nq2;a2;",
        0,
    ),
    "two titles": ("a.csv", "Law firm\nas of 1 May\n\nFrage;Antwort\nq1;a1\nq2;a2\n", [5, 6]),
    "German": ("a.csv", "\ufeffFrage;Antwort\r\nq1;a1\r\nq2;a2\r\n", [2, 3]),
    "capitals": ("a.csv", "QUESTION , Answer\nq1,a1\nq2,a2\n", [2, 3]),
    "an index": ("a.csv", ",question,answer\n,q1,a1\n,q2,a2\n", [2, 3]),
    "pandas' index": ("a.csv", ",question,answer\n0,q1,a1\n1,q2,a2\n", [2, 3]),
    "a wrong sep line": ("a.csv", "sep=,\nquestion;answer\nq1;a1\nq2;a2\n", [3, 4]),
    "old Mac lines": ("a.csv", "question,answer\rq1,a1\rq2,a2\r", 0),
    "lines of JSON with commas": ("a.jsonl", "\n".join(json.dumps(r) + "," for r in ROWS), [1, 2]),
    "an array named jsonl": ("a.jsonl", json.dumps(ROWS), [1, 2]),
    "an array over lines": ("a.jsonl", json.dumps(ROWS, indent=1), [2, 6]),
    "an array of lines": (
        "a.jsonl",
        f"[\n{json.dumps(ROWS[0])},\n{json.dumps(ROWS[1])}\n]",
        [2, 3],
    ),
    "objects over lines": ("a.jsonl", "\n".join(json.dumps(r, indent=1) for r in ROWS), [1, 5]),
    "objects over lines, commas": ("a.json", ",\n".join(json.dumps(r, indent=1) for r in ROWS), 0),
    "data": ("a.json", json.dumps({"version": 1, "data": ROWS}, indent=1), [4, 8]),
    "rows": ("a.json", json.dumps({"rows": ROWS}), [1, 2]),
    "examples": ("a.json", json.dumps({"examples": ROWS}), [1, 2]),
    "train": ("a.json", json.dumps({"train": ROWS}), [1, 2]),
    "Data": ("a.json", json.dumps({"Data": ROWS, "n": 2}), [1, 2]),
    "pandas by columns": ("a.json", json.dumps(columns(*ROWS)), [1, 2]),
    "pandas by lists": ("a.json", json.dumps({k: [r[k] for r in ROWS] for k in ROWS[0]}), [1, 2]),
    "pandas split": (
        "a.json",
        json.dumps(
            {
                "columns": ["question", "answer"],
                "index": [0, 1],
                "data": [["q1", "a1"], ["q2", "a2"]],
            }
        ),
        [1, 2],
    ),
    "pandas by index": ("a.json", json.dumps({"0": ROWS[0], "1": ROWS[1]}), [1, 2]),
    "pandas table": ("a.json", json.dumps({"schema": {"fields": []}, "data": ROWS}), [1, 2]),
    "pandas records as lines": ("a.json", "\n".join(map(json.dumps, ROWS)), [1, 2]),
}


@pytest.mark.parametrize("case", TABLES)
def test_what_programs_write_is_read(case, tmp_path):
    """Every row with its question, its answer and its line."""
    name, content, lines = TABLES[case]
    pairs, findings = learn(tmp_path, name, content)
    assert not findings.problems
    assert [pair[1:] for pair in pairs] == [("q1", "a1"), ("q2", "a2")]
    assert not lines or [pair[0] for pair in pairs] == lines


def test_lines_above_the_heading_are_said(tmp_path):
    """A title is no row, and its owner is told that it was not read."""
    _, findings = learn(tmp_path, "a.csv", "Our SECRET list\nquestion,answer\nq,a\n")
    assert findings.notes == ["1 row above the column names not read: a.csv, line 1"]


def test_excels_own_first_line_is_no_title_and_its_separator_counts(tmp_path):
    """`sep=;` is nobody's title; where two separators make known names, it says which is right."""
    row = "q1;a1,context;answer|x\n"
    pairs, findings = learn(
        tmp_path, "a.csv", f"sep=;\nquestion;answer;input,context|output\n{row}"
    )
    assert [pair[1:] for pair in pairs] == [("q1", "a1,context")]
    assert "above the column names" not in " ".join(findings.notes)


@pytest.mark.parametrize(
    "cell", ["", " ", "NaN", "nan", "<NA>", "#N/A", "#NV", "#WERT!", "#SPILL!", "#ÜBERLAUF!"]
)
def test_a_cell_without_a_value_is_no_answer(cell, tmp_path):
    """Pandas and Excel write that there is none."""
    _, findings = learn(tmp_path, "a.csv", f"question,answer,notes\nq1,a1,x\nq2,{cell},y\n")
    (problem,) = findings.problems
    assert (problem.line, problem.message[:21]) == (3, "the row has no answer")


@pytest.mark.parametrize("cell", ["", "NaN", "None", "null", "#NV"])
def test_a_cell_without_a_value_is_no_context(cell, tmp_path):
    """The word is not put to the question."""
    pairs, _ = learn(tmp_path, "a.csv", f"question,context,answer\nq1,{cell},a1\n")
    assert pairs == [(2, "q1", "a1")]


def test_the_word_none_may_be_an_answer(tmp_path):
    """Which exceptions apply?"""
    assert learn(tmp_path, "a.csv", "question,answer\nq1,None\n")[0] == [(2, "q1", "None")]


@pytest.mark.parametrize("value", ["NaN", "null", "Infinity", '""', '" "', "[]", "{}"])
def test_a_json_value_that_is_none_is_no_answer(value, tmp_path):
    """NaN is not learned as a word."""
    text = f'{{"question": "q", "answer": {value}}}\n{json.dumps(ROWS[0])}'
    _, findings = learn(tmp_path, "a.jsonl", text)
    assert "the row has no answer: 'answer' is missing or empty" in str(findings.problems[0])


@pytest.mark.parametrize(
    "value", ["1e400", "-1e400", "9" * 5000, '{"due": 1e400}', "[[3.10, -0.0]]"]
)
def test_a_number_that_no_machine_holds_is_learned_as_it_is_written(value, tmp_path):
    """It is neither missing nor broken JSON, nor is ``Infinity`` learned in its place."""
    text = f'{{"question": "q", "answer": {value}}}\n{json.dumps(ROWS[0])}'
    pairs, findings = learn(tmp_path, "a.jsonl", text)
    assert findings.problems == []
    assert pairs[0] == (1, "q", value)


def test_messages_may_stand_as_json_in_a_cell(tmp_path):
    """CSV files and Parquet columns have no other place for a list."""
    cell = json.dumps(TALK).replace('"', '""')
    assert learn(tmp_path, "a.csv", f'messages\n"{cell}"\n')[0] == [(2, "q1", "a1")]
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_pylist([{"messages": json.dumps(TALK)}]), path)
    assert learn(tmp_path, "a.parquet", path.read_bytes())[0] == [(1, "q1", "a1")]


def test_parquet_names_rows_and_its_empty_columns_are_no_matter(tmp_path):
    """A table has each column in every row; there are no lines of text to point at."""
    path = tmp_path / "a.parquet"
    rows = [
        {"Frage": "q1", "Antwort": 3.5, "images": None, "weight": None},
        {"Frage": "q2", "Antwort": None, "images": None, "weight": 1},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), path)
    pairs, findings = learn(tmp_path, "a.parquet", path.read_bytes())
    assert pairs == [(1, "q1", "3.5")]
    assert str(findings.problems[0]).startswith("a.parquet, row 2: the row has no answer")


def test_parquet_messages_with_keys_for_other_roles_are_read(tmp_path):
    """Each message of a table has the keys of all: those that hold nothing are no matter."""
    path = tmp_path / "a.parquet"
    talk = [{**message, "tool_calls": None, "weight": None, "name": None} for message in TALK]
    parquet.write_table(pa.Table.from_pylist([{"messages": talk}]), path)
    pairs, findings = learn(tmp_path, "a.parquet", path.read_bytes())
    assert (pairs, findings.problems, findings.notes) == ([(1, "q1", "a1")], [], [])


TWICE = '{"question": "q", "answer": "SECRET", "answer": "b"}'
BAD = {
    "unknown heading": (
        "a.csv",
        "Sache;Urteil\nSECRET;SECRET\nSECRET;SECRET\n",
        [(1, 1, "these column names are not recognised: Sache, Urteil")],
    ),
    "half a heading": (
        "a.csv",
        "Frage;Lösung\nSECRET;x\nSECRET;y\n",
        [(1, 1, "there is no column for the answer, and these column names are not recognised: L")],
    ),
    "only questions": ("a.csv", "question\nSECRET\nSECRET\n", [(1, 1, "no column for the answer")]),
    "a slip": ("a.csv", "question,anser\nSECRET,x\n", [(1, 1, "not recognised: anser")]),
    "no heading": (
        "a.csv",
        "Is SECRET due?;Yes, SECRET is.\nWho signs SECRET?;The tenant.\n",
        [(1, 1, "the first line holds no column names: it looks like a row")],
    ),
    "heading far down": (
        "a.csv",
        "firm,SECRET\nquestion,answer\nq,a\n",
        [(1, 1, "the column names stand in line 2, with other lines above them")],
    ),
    "no name above": (
        "a.csv",
        "question,answer,\nq,a,SECRET\nq,a,SECRET\n",
        [(1, 1, "column 3 holds")],
    ),
    "a lost quote": (
        "a.csv",
        "question,answer,context\nq,SECRET\nmore SECRET,c\nq,a,c\n",
        [(2, 2, "another number of columns than line 1")],
    ),
    "same name": (
        "a.csv",
        "Answer,question,answer\n1,2,3\n",
        [(1, 1, "same name: Answer")],
    ),
    "both names": (
        "a.csv",
        "Frage,question,answer\nSECRET,q,a\nSECRET,q,a\n",
        [(2, 2, "the row holds Frage and question, which mean the same here")],
    ),
    "key twice": (
        "a.jsonl",
        f"{TWICE}\n{json.dumps(ROWS[0])}",
        [(1, 1, "the key 'answer' stands")],
    ),
    "key twice in an array": ("a.json", f"[{TWICE}]", [(1, 1, "the key 'answer' stands twice")]),
    "key twice in one object": ("a.json", TWICE, [(1, 1, "the key 'answer' stands twice")]),
    "key twice in a message": (
        "a.jsonl",
        '{"messages": [{"role": "user", "content": "SECRET", "content": "b"}]}',
        [(1, 1, "the key 'content' stands twice")],
    ),
    "private key twice": (
        "a.jsonl",
        '{"answer": {"SECRET": 1, "SECRET": 2}}',
        [(1, 1, "a key")],
    ),
    "two lists": (
        "a.json",
        json.dumps({"data": ROWS, "rows": ROWS}),
        [(1, 1, "several lists of rows: data, rows")],
    ),
    "Python's spelling, cut short": (
        "a.csv",
        "messages\n\"[{'role': 'user', 'content': 'SECRET'\"\n",
        [(2, 1, "'messages' is text, but not valid JSON")],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_once_with_the_change(case, tmp_path):
    """A fault of the heading once, one of a row with its line; never what stands in a row."""
    name, content, expected = BAD[case]
    _, findings = learn(tmp_path, name, content)
    assert [(p.line, p.count) for p in findings.problems] == [(n, c) for n, c, _ in expected]
    for problem, (_, _, message) in zip(findings.problems, expected, strict=True):
        assert message in problem.message
        assert problem.hint
        assert "SECRET" not in str(problem)


def test_the_hint_of_a_slip_names_the_column_that_was_meant(tmp_path):
    """The nearest known name."""
    _, findings = learn(tmp_path, "a.csv", "question,anser\nq,x\n")
    assert findings.problems[0].hint.startswith("Rename anser to answer.")


def test_lists_that_are_not_read_are_said(tmp_path):
    """Of several parts of a data set only the one to train on is learned."""
    pairs, findings = learn(tmp_path, "a.json", json.dumps({"train": ROWS, "test": ROWS[:1]}))
    assert len(pairs) == 2
    assert findings.notes == ["lists of rows in a.json not read: test"]


LINES = "\n".join(map(json.dumps, ROWS))


def zstd(content):
    """Compress as the zstd program does."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.gz", gzip.compress(LINES.encode())),
        ("a.jsonl.gz", gzip.compress(LINES[:20].encode()) + gzip.compress(LINES[20:].encode())),
        ("a.jsonl.zst", zstd(LINES.encode())),
        ("a.csv.gz", gzip.compress(b"question,answer\nq1,a1\nq2,a2\n")),
        ("A.JSON.GZ", gzip.compress(json.dumps(ROWS).encode())),
    ],
    ids=["gzip", "two members", "zstd", "csv", "capitals"],  # gzip's bytes hold the time
)
def test_packed_files_are_read(name, content, tmp_path):
    """By the ending before that of the packing."""
    pairs, findings = learn(tmp_path, name, content)
    assert not findings.problems
    assert [pair[1:] for pair in pairs] == [("q1", "a1"), ("q2", "a2")]


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_decompression_bomb_is_stopped(pack, tmp_path, monkeypatch):
    """What packs to a thousandth is no data; nothing of it is kept meanwhile."""
    monkeypatch.setattr(unpack, "SMALL_BYTES", 1_000_000)
    row = json.dumps({"question": "q", "answer": "a" * 1000}).encode() + b"\n"
    name = "a.jsonl.gz" if pack is gzip.compress else "a.jsonl.zst"
    _, findings = learn(tmp_path, name, pack(row * 20_000))
    (problem,) = findings.problems
    assert "unpacks to more than" in problem.message


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_torn_packed_file_is_refused(pack, tmp_path):
    """Half of an upload is no data."""
    name = "a.jsonl.gz" if pack is gzip.compress else "a.jsonl.zst"
    packed = pack("".join(f"{json.dumps({**ROWS[0], 'n': n})}\n" for n in range(5000)).encode())
    _, findings = learn(tmp_path, name, packed[: len(packed) // 2])
    assert any("cannot be unpacked" in problem.message for problem in findings.problems)


@pytest.mark.parametrize("form", ["file", "stream"])
def test_arrow_is_read(form, tmp_path):
    """A file of Arrow, and a stream as data sets are kept."""
    table = pa.Table.from_pylist(ROWS)
    sink = pa.BufferOutputStream()
    new = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue().to_pybytes()
    pairs, findings = learn(tmp_path, "a.arrow", content)
    assert not findings.problems
    assert pairs == [(1, "q1", "a1"), (2, "q2", "a2")]
    _, findings = learn(tmp_path, "a.arrow", content[: len(content) // 2])
    assert findings.problems[0].message == "the file is not valid Arrow"


def test_excel_is_read_with_the_rows_that_excel_shows(tmp_path):
    """A title above, an empty row between, a number that stays whole."""
    cells = [["Our list", ""], ["Frage", "Antwort"], ["q1", "a1"], ["", ""], ["q2", ""]]
    pairs, findings = learn(tmp_path, "a.xlsx", excel_file(cells))
    assert pairs == [(3, "q1", "a1")]
    (problem,) = findings.problems
    assert str(problem).startswith("a.xlsx, row 5: the row has no answer")


ODS_CELL = "<table:table-cell office:value-type='string'><text:p>{}</text:p></table:table-cell>"


def ods_file(sheets):
    """Write an OpenDocument table with these sheets, by hand."""
    tables = "".join(
        f"<table:table table:name='{name}'>"
        + "".join(
            "<table:table-row>" + "".join(map(ODS_CELL.format, row)) + "</table:table-row>"
            for row in rows
        )
        + "</table:table>"
        for name, rows in sheets.items()
    )
    space = "urn:oasis:names:tc:opendocument:xmlns"
    content = (
        f"<office:document-content xmlns:office='{space}:office:1.0' "
        f"xmlns:table='{space}:table:1.0' xmlns:text='{space}:text:1.0'><office:body>"
        f"<office:spreadsheet>{tables}</office:spreadsheet></office:body></office:document-content>"
    )
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("META-INF/manifest.xml", "<manifest/>")
        archive.writestr("content.xml", content)
    return made.getvalue()


SHEETS = {"First": [["question", "answer"], ["q1", "a1"]], "Second": [["question", "answer"]]}


def test_an_empty_first_sheet_names_the_one_that_may_be_meant(tmp_path):
    """The line for the spec is offered; a file of one sheet has no rows, as any other."""
    sheets = {"Cover": [], "Rows": [["question", "answer"], ["q1", "a1"]]}
    _, findings = learn(tmp_path, "a.ods", ods_file(sheets))
    (problem,) = findings.problems
    assert problem.message == "the sheet 'Cover' has no rows"
    assert problem.hint == "Say in the spec which sheet is meant, such as: sheet: Rows"
    _, findings = learn(tmp_path, "b.ods", ods_file({"Cover": []}))
    assert findings.problems[0].message == "the file has no rows"


def test_a_sheet_whose_name_may_be_a_sentence_is_not_offered(tmp_path):
    """What follows `sheet:` can be pasted; "1 (not shown)" could not."""
    rows = [["question", "answer"], ["q1", "a1"]]
    _, findings = learn(tmp_path, "a.ods", ods_file({"Cover": [], "Rows \U0001f600!": rows}))
    assert findings.problems[0].hint == "Say in the spec which sheet is meant: sheet: NAME"
    sheets = {"Cover": [], "Rows \U0001f600!": [], "Q &amp; A": rows}
    _, findings = learn(tmp_path, "a.ods", ods_file(sheets))
    assert findings.problems[0].hint.endswith("such as: sheet: Q & A")


def test_an_error_that_excel_added_later_is_named(tmp_path):
    """The library reads none of a sheet with one; the owner is told what to look for."""
    rows = '<row r="2"><c r="A2" t="inlineStr"><is><t>q1</t></is></c><c r="B2" t="e">{}</c></row>'
    _, findings = learn(tmp_path, "a.xlsx", workbook(rows.format("<v>#SPILL!</v>")))
    (problem,) = findings.problems
    assert "an error that is not known here" in problem.message
    assert "Correct or empty the cells" in problem.hint
    _, findings = learn(tmp_path, "a.xlsx", workbook(rows.format("<v>#REF!</v>")))
    assert [p.message[:21] for p in findings.problems] == ["the row has no answer"]


def test_of_several_sheets_the_first_is_read_and_the_others_are_said(tmp_path):
    """Nobody trains on less than they think."""
    pairs, findings = learn(tmp_path, "a.ods", ods_file(SHEETS))
    assert pairs == [(2, "q1", "a1")]
    assert findings.notes[0].endswith(": Second")


def test_a_sheet_is_chosen_by_name(tmp_path):
    """A name that is not there is answered with those that are."""
    path, findings = tmp_path / "a.ods", Findings()
    path.write_bytes(ods_file({"Old": [["x"]], "Q and A": SHEETS["First"]}))
    rows = list(stream_rows(path, shown_as="a.ods", findings=findings, sheet="q and a"))
    assert [row.value for row in rows] == [{"question": "q1", "answer": "a1"}]
    list(stream_rows(path, shown_as="a.ods", findings=findings, sheet="New"))
    assert "Its sheets are: Old, Q and A." in findings.problems[0].hint


def test_a_spreadsheet_bomb_is_stopped(tmp_path, monkeypatch):
    """By what comes out of it, whatever it says of its sizes."""
    monkeypatch.setattr(sheet_rows, "MOST_BYTES", 100_000)
    content = ods_file({"First": [["question", "answer"], ["q", "a" * 1_000_000]]})
    _, findings = learn(tmp_path, "a.ods", content)
    assert "unpacks to more than" in findings.problems[0].message


def test_something_else_named_xlsx_is_refused(tmp_path):
    """With what to do."""
    _, findings = learn(tmp_path, "a.xlsx", b"PK\x03\x04SECRET")
    assert findings.problems[0].message == "the file is not a spreadsheet that can be read"


def test_a_line_in_another_encoding_is_named_with_advice(tmp_path):
    """What it is perhaps, and how to save it."""
    text = b'{"question": "q1", "answer": "a1"}\n{"question": "q", "answer": "F\xfcnf"}\n'
    _, findings = learn(tmp_path, "a.jsonl", text)
    (problem,) = findings.problems
    assert (problem.line, problem.message) == (2, "the line is not UTF-8")
    assert "Windows-1252" in problem.hint


def test_a_label_that_contradicts_the_first_rows_is_refused_by_line(tmp_path):
    """Thumbs up and down in the first thousand rows, a class afterwards."""
    rows = [{"question": f"q{n}", "answer": "a", "label": True} for n in range(1001)]
    rows[1000]["label"] = 2
    _, findings = learn(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    (problem,) = findings.problems
    assert (problem.line, problem.message[:23]) == (1001, "label is neither yes no")


def workbook(rows, more=""):
    """Write an Excel file whose rows are XML."""
    made = io.BytesIO(excel_file([("question", "answer")]))
    parts = {}
    with zipfile.ZipFile(made) as archive:
        for name in archive.namelist():
            parts[name] = archive.read(name).decode()
    sheet = parts["xl/worksheets/sheet1.xml"]
    sheet = sheet.replace("</sheetData>", f"{rows}</sheetData>{more}")
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**parts, "xl/worksheets/sheet1.xml": sheet}.items():
            archive.writestr(name, content)
    return made.getvalue()


def text(place, words):
    """Write a cell of text."""
    return f'<c r="{place}" t="inlineStr"><is><t>{words}</t></is></c>'


def test_a_cell_far_away_costs_no_memory(tmp_path):
    """A workbook of 2 KB that claims 17,000 million cells is refused; this process goes on."""
    far = f'<row r="2">{text("A2", "q")}</row><row r="1048576">{text("XFD1048576", "x")}</row>'
    pairs, findings = learn(tmp_path, "a.xlsx", workbook(far))
    assert pairs == []
    assert findings.problems[0].message.startswith("the spreadsheet takes too much memory")


def test_a_formula_without_its_result_is_said(tmp_path):
    """As programs write it that do not calculate; one with its result is read."""
    rows = (
        f'<row r="2">{text("A2", "q1")}<c r="B2" t="str"><f>A2</f><v>a1</v></c></row>'
        f'<row r="3">{text("A3", "q2")}<c r="B3"><f>A3&amp;"x"</f></c></row>'
    )
    pairs, findings = learn(tmp_path, "a.xlsx", workbook(rows))
    assert pairs == [(2, "q1", "a1")]
    (problem,) = findings.problems
    assert str(problem).startswith("a.xlsx, row 3: 'answer' is a formula whose result is not saved")


def test_merged_cells_are_said_by_row(tmp_path):
    """Only the topmost holds the text; a title over several columns is no matter."""
    rows = (
        f'<row r="2">{text("A2", "q1")}{text("B2", "a1")}</row>'
        f'<row r="3"><c r="A3"/>{text("B3", "a2")}</row>'
    )
    merged = '<mergeCells count="1"><mergeCell ref="A2:A3"/></mergeCells>'
    pairs, findings = learn(tmp_path, "a.xlsx", workbook(rows, merged))
    assert pairs == [(2, "q1", "a1")]
    assert str(findings.problems[0]).startswith("a.xlsx, row 3: 'question' belongs to merged cells")


LINE = '{"question": "q1", "answer": "a1"}\n'
CHINESE = '{"question": "\u4ec0\u4e48\u662f\u8fd9\u4e2a", "answer": "\u623f\u5b50\u800c"}\n'
ZSTD = pa.compress(LINE.encode(), codec="zstd", asbytes=True)
TWICE = "question,answer\nq,a\nquestion,answer\n"
WRONG = {
    "not packed": ("a.jsonl.gz", LINE, None, "not compressed, though its name says so", ".jsonl."),
    "zstd named gz": ("a.jsonl.gz", ZSTD, None, "zstd", ""),
    "gz within gz": (
        "a.jsonl.gz",
        gzip.compress(gzip.compress(b"x")),
        None,
        "compressed twice",
        "",
    ),
    "zst within gz": ("a.jsonl.zst.gz", gzip.compress(b"x"), None, ".zst files are not", "unpack"),
    "UTF-16 without a mark": ("a.jsonl", CHINESE.encode("utf-16-le"), 1, "UTF-16", "UTF-8"),
    "UTF-16, other order": ("a.csv", "question,answer\nä,ö\n".encode("utf-16-be"), 1, "UTF-16", ""),
    "UTF-32": ("a.jsonl", LINE.encode("utf-32"), 1, "UTF-32", "UTF-8"),
    "UTF-32 without a mark": ("a.jsonl", LINE.encode("utf-32-le"), 1, "UTF-32", "UTF-8"),
    "zero bytes": ("a.jsonl", LINE + "\0" * 64, 2, "zero bytes", "copy or export"),
    "a zero in a cell": ("a.csv", "question,answer\nq,a\nq\0,a\n", 3, "zero bytes", ""),
    "joined tables": ("a.csv", TWICE, 3, "stand here a second time", "Delete"),
    "joined, with marks": ("a.csv", TWICE.replace("qu", "\ufeffqu"), 3, "a second time", ""),
    "RAR": (
        "a.csv",
        b"Rar!\x1a\x07\x01\0" + b"\x90" * 40,
        None,
        "an archive (tar, 7z, RAR",
        "Unpack",
    ),
    "bzip2": ("a.jsonl", bz2.compress(b"x"), None, "an archive (tar, 7z, RAR", "Unpack it"),
    "tar": ("a.jsonl.gz", gzip.compress(tar()), None, "an archive (tar,", "Unpack it"),
    "xz": ("a.jsonl", lzma.compress(b"x"), None, "an archive (tar, 7z, RAR", "Unpack it"),
    "empty": ("a.parquet", b"", None, "the file has no rows", ""),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_file_is_instead_is_said(case, tmp_path):
    """The file, the line where there is one, and what to do."""
    name, content, line, message, hint = WRONG[case]
    _, findings = learn(tmp_path, name, content)
    problem = findings.problems[0]
    assert (problem.file, problem.line) == (name, line)
    assert message in problem.message
    assert hint in problem.hint


def test_marks_of_joined_files_are_no_matter(tmp_path):
    """Each file that was joined brought its mark, at the beginning of a line."""
    pairs, findings = learn(tmp_path, "a.jsonl", f"\ufeff\ufeff{LINE}\ufeff{LINE}")
    assert not findings.problems
    assert pairs == [(1, "q1", "a1"), (2, "q1", "a1")]


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_two_columns_of_one_name_are_refused(form, tmp_path):
    """One of them would be lost without a word."""
    table = pa.Table.from_arrays([pa.array(["x"])] * 3, names=["question", "answer", "answer"])
    sink = pa.BufferOutputStream()
    if form == "parquet":
        parquet.write_table(table, sink)
    else:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    pairs, findings = learn(tmp_path, f"a.{form}", sink.getvalue().to_pybytes())
    assert pairs == []
    assert findings.problems[0].message == "two columns have the same name: answer"


def test_a_length_of_time_in_parquet_is_text(tmp_path):
    """As it is written, not as something that is not text."""
    sink = pa.BufferOutputStream()
    rows = [{"question": "q", "answer": timedelta(hours=36)}]
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    pairs, _ = learn(tmp_path, "a.parquet", sink.getvalue().to_pybytes())
    assert pairs == [(1, "q", "1 day, 12:00:00")]


def test_one_bad_row_among_a_thousand_is_named(tmp_path):
    """In every kind of file: JSON Lines, an array, CSV and Excel."""
    rows = [(f"q{n}", "" if n == 700 else f"a{n}") for n in range(1000)]
    objects = [json.dumps({"question": q, "answer": a}) for q, a in rows]
    files = {
        "a.jsonl": ("\n".join(objects), 701),
        "a.json": ("[" + ",\n".join(objects) + "]", 701),
        "a.csv": ("question,answer\n" + "\n".join(f"{q},{a}" for q, a in rows), 702),
        "a.xlsx": (excel_file([("question", "answer"), *rows]), 702),
    }
    for name, (content, line) in files.items():
        pairs, findings = learn(tmp_path, name, content)
        assert len(pairs) == 999
        (problem,) = findings.problems
        assert (problem.file, problem.line, problem.count) == (name, line, 1)


NUMBERED = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(500)]
AGAIN = {
    "lines": ("a.jsonl", "\n\n".join(map(json.dumps, NUMBERED))),
    "packed lines": ("a.jsonl.gz", gzip.compress("\n".join(map(json.dumps, NUMBERED)).encode())),
    "an array named so": ("a.jsonl", json.dumps(NUMBERED)),
    "an array": ("a.json", json.dumps(NUMBERED, indent=1)),
    "a table": ("a.csv", "question,answer\n" + "".join(f"q{n},a{n}\n" for n in range(500))),
}


@pytest.mark.parametrize("case", AGAIN)
def test_rows_are_found_again_by_their_lines(case, tmp_path, monkeypatch):
    """Whatever the file is, the rows are those that were read; lines that are not wanted stay."""
    name, content = AGAIN[case]
    path = tmp_path / "copy"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    spec = read_spec(f"model: m\ndata: {name}\n".encode(), file_name="a.yaml")
    copied = Copied(named=name, path=path, sha256="", size=path.stat().st_size)
    source = Source(copies=[copied], spec=spec)
    lines = {n: row.line for n, row in enumerate(source.rows_of(copied, Findings()))}
    rules, parsed = first_rules(source), []
    loads = json_rows.loads
    monkeypatch.setattr(json_rows, "loads", lambda text: parsed.append(text) or loads(text))
    wanted = [3, 77, 499]
    chosen = {n: lines[n] for n in wanted}
    found = read_again(source, rules, [500], wanted, chosen)
    assert [c.messages[0]["content"] for c in found] == ["q3", "q77", "q499"]
    assert [c.row for c in found] == wanted
    assert len(parsed) < 10 or "lines" not in case


def test_a_line_of_other_bytes_is_said_once(tmp_path):
    """However many pieces it is read in."""
    _, findings = learn(tmp_path, "a.csv", b"a,b\n" + b"\xe4" * 3_000_000 + b"\xe4")
    assert [(p.message, p.lines) for p in findings.problems] == [("the line is not UTF-8", (2,))]


def test_the_ends_of_lines_within_a_cell_are_those_of_a_text(tmp_path):
    """What Windows writes between lines of a cell is no part of the answer."""
    table = b'question;answer\r\n"q\r\n1";"a\r\n2"\r\n'
    pairs, _ = learn(tmp_path, "a.csv", table)
    assert pairs == [(2, "q\n1", "a\n2")]


def test_a_weight_with_a_decimal_comma_is_read(tmp_path):
    """As Excel writes it in most of Europe."""
    table = "question;answer;weight\nq1;a1;0,0\nq2;a2;1,0\n"
    pairs, findings = learn(tmp_path, "a.csv", table)
    assert not findings.problems
    assert pairs == [(3, "q2", "a2")]


STYLES = (
    '<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><cellXfs>'
    '<xf numFmtId="0"/><xf numFmtId="9"/><xf numFmtId="14"/></cellXfs></styleSheet>'
)


def styled(book):
    """Give a workbook a style for percentages and one for dates."""
    made, kind = io.BytesIO(), "application/vnd.openxmlformats-officedocument.spreadsheetml"
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/styles"
    more = {
        "[Content_Types].xml": '<Override PartName="/xl/styles.xml" '
        f'ContentType="{kind}.styles+xml"/>',
        "xl/_rels/workbook.xml.rels": '<Relationship Id="s" '
        f'Type="{relation}" Target="styles.xml"/>',
    }
    with zipfile.ZipFile(io.BytesIO(book)) as old, zipfile.ZipFile(made, "w") as archive:
        for name in old.namelist():
            content = old.read(name).decode()
            start, end, rest = content.rpartition("</")
            archive.writestr(name, f"{start}{more.get(name, '')}{end}{rest}")
        archive.writestr("xl/styles.xml", STYLES)
    return made.getvalue()


def test_a_number_that_the_sheet_shows_otherwise_is_said(tmp_path):
    """19% is stored as 0.19: nobody is to find that out from the model's answers."""
    shares = (("2", "1", "0.19"), ("3", "2", "46352"), ("4", "0", "7"))
    rows = "".join(
        f'<row r="{row}">{text(f"A{row}", "q")}<c r="B{row}" s="{style}"><v>{value}</v></c></row>'
        for row, style, value in shares
    )
    pairs, findings = learn(tmp_path, "a.xlsx", styled(workbook(rows)))
    assert pairs == [(2, "q", "0.19"), (3, "q", "2026-11-26"), (4, "q", "7")]
    (note,) = findings.notes
    assert note.startswith("2 rows with a number or date as answer that is read as it is stored")
    assert note.endswith("a.xlsx, rows 2 and 3")


def test_hidden_rows_are_said(tmp_path):
    """A filter that was left on hides rows from people, not from the training."""
    shown = f'<row r="2">{text("A2", "q")}{text("B2", "a")}</row>'
    hidden = f'<row r="3" hidden="1">{text("A3", "r")}{text("B3", "b")}</row>'
    pairs, findings = learn(tmp_path, "a.xlsx", workbook(shown + hidden))
    assert len(pairs) == 2
    assert findings.notes == ["1 row hidden in the sheet, and read all the same: a.xlsx, row 3"]


def test_a_hidden_sheet_is_not_the_first(tmp_path):
    """Templates keep their lists in a sheet that nobody sees."""
    content = ods_file({"Lists": [["question", "answer"], ["x", "y"]], **SHEETS})
    style = (
        "<office:automatic-styles><style:style style:name='h' style:family='table'>"
        "<style:table-properties table:display='false'/></style:style></office:automatic-styles>"
    )
    made, space = io.BytesIO(), "urn:oasis:names:tc:opendocument:xmlns:style:1.0"
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as archive:
        for name in old.namelist():
            part = old.read(name).decode()
            part = part.replace("<office:body>", f"{style}<office:body>")
            part = part.replace(
                "content xmlns:office", f"content xmlns:style='{space}' xmlns:office"
            )
            part = part.replace("table:name='Lists'", "table:name='Lists' table:style-name='h'")
            archive.writestr(name, part)
    pairs, findings = learn(tmp_path, "a.ods", made.getvalue())
    assert pairs == [(2, "q1", "a1")]
    assert findings.notes[0].endswith(": Lists, Second")


@pytest.mark.parametrize("side", ["user", "assistant"])
def test_a_message_that_shows_nothing_is_empty(side, tmp_path):
    """Zero-width characters of a web page are no answer, and no question either."""
    said = {"user": "q", "assistant": "a", side: "\u200b\ufeff"}
    row = {"messages": [{"role": role, "content": text} for role, text in said.items()]}
    pairs, findings = learn(tmp_path, "a.jsonl", json.dumps(row))
    assert pairs == []
    (problem,) = findings.problems
    assert "empty" in problem.message
