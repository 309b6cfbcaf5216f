"""Odd inputs that people really have: each is said as what it is, or found by a check."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path

import pytest

from runner.errors import UnsafePathError
from runner.training.checks.mojibake import is_broken
from runner.training.data.findings import Findings
from runner.training.data.rows import read_rows
from runner.training.data.snapshot import path_in_inbox

ROW = {"question": "Which court decides?", "answer": "The district court."}
LINE = json.dumps(ROW).encode() + b"\n"


def said(folder: Path, name: str, content: bytes) -> tuple[str, str]:
    """Read a file; give the one problem that is found, and how to fix it."""
    path, findings = folder / name, Findings()
    path.write_bytes(content)
    read_rows(path, shown_as=name, findings=findings)
    (problem,) = findings.problems
    return problem.message, problem.hint or ""


def test_a_file_that_was_compressed_twice_is_not_called_uncompressed(tmp_path: Path) -> None:
    """Its name ends in .gz already: to rename it would not help."""
    what, hint = said(tmp_path, "a.jsonl.gz", gzip.compress(gzip.compress(LINE)))
    assert what == "the file was compressed twice"
    assert hint == "Unpack it once, and name what comes out."


def test_rows_that_were_turned_into_json_twice_are_told_apart(tmp_path: Path) -> None:
    """Each line is a text that holds the row."""
    lines = json.dumps(json.dumps(ROW)).encode() + b"\n"
    what, hint = said(tmp_path, "a.jsonl", lines * 3)
    assert what == "the line is a JSON object that was written as a text, within quotes"
    assert "twice: do it once" in hint
    assert said(tmp_path, "b.jsonl", b'"only a text"\n')[0] == "the line is not a JSON object"


def archive(**members: bytes) -> bytes:
    """Make a zip archive."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as opened:
        for name, content in members.items():
            opened.writestr(name.replace("__", "/"), content)
    return made.getvalue()


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.csv"])
def test_a_zip_archive_is_told_from_an_excel_file(tmp_path: Path, name: str) -> None:
    """Whoever renamed an archive is not sent to Excel; what Excel wrote may be renamed."""
    what, hint = said(tmp_path, name, archive(rows=LINE))
    assert what == "the file is a zip archive"
    assert hint.startswith("Unpack it, and name the files in it")
    what, hint = said(tmp_path, name, archive(xl__workbook=b"<workbook/>"))
    assert what == "the file is an Excel file or a zip archive"
    assert "rename it so that it ends in .xlsx" in hint


def test_a_workbook_with_a_password_is_not_to_be_renamed(tmp_path: Path) -> None:
    """Excel writes it as an old compound file, under the name that it has already."""
    what, hint = said(tmp_path, "rows.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    assert what == "the file is protected with a password, or of old Excel"
    assert "take the password away" in hint
    assert "rename" not in hint


@pytest.mark.parametrize(
    "content", [b"question;answer\na;b\n", "Frage;Antwort\nä;ß".encode("cp1252")]
)
def test_text_named_as_a_workbook_is_called_text(tmp_path: Path, content: bytes) -> None:
    """Programs export CSV under Excel's name."""
    what, hint = said(tmp_path, "rows.xlsx", content)
    assert what == "the file is text, not a spreadsheet"
    assert hint == "Rename it so that it ends in .csv."


@pytest.mark.parametrize("suffix", [".parquet", ".xlsx", ".arrow"])
def test_what_is_compressed_in_itself_is_not_read_compressed_again(
    tmp_path: Path, suffix: str
) -> None:
    """Parquet files are read, and the answer does not say that they are not."""
    what, hint = said(tmp_path, f"rows{suffix}.gz", gzip.compress(LINE))
    assert what == f"compressed {suffix} files are not read"
    assert hint == f"Unpack it: a {suffix} file is compressed in itself."


def test_a_tab_within_a_text_of_json_is_named(tmp_path: Path) -> None:
    """Copied from a table: the line looks right to whoever compares it with the others."""
    line = b'{"question": "a\tb", "answer": "c"}\n'
    what, hint = said(tmp_path, "a.jsonl", line)
    assert what.startswith("the line holds a tab or another control character as it is")
    assert hint.startswith("Write it as JSON does: \\t for a tab")
    what, _ = said(tmp_path, "a.json", b"[" + LINE + b"," + line + b"]")
    assert what.startswith("the file is not read any further: it holds a tab")


@pytest.mark.parametrize(
    "broken",
    [
        b'{"question": "q" "answer": "a"}',
        b'{"question": "q", "answer": a}',
        b"{'question': 'q', 'answer': 'a'}",
        b'{"question": "q", "answer": "\\x"}',
    ],
)
def test_a_fault_far_before_the_end_of_a_large_array_is_told_by_its_line(
    tmp_path: Path, broken: bytes
) -> None:
    """Not as a row of more than 8 MiB; and no more of the file is read for it."""
    rest = b",\n" + json.dumps({"question": "q" * 1000, "answer": "a"}).encode()
    content = b"[" + LINE + b"," + broken + rest * 20_000 + b"]"
    path, findings = tmp_path / "a.json", Findings()
    path.write_bytes(content)
    read_rows(path, shown_as="a.json", findings=findings)
    (problem,) = findings.problems
    assert (problem.line, problem.message) == (2, "the file is not valid JSON from here on")


def test_a_value_that_is_cut_by_the_end_of_what_was_read_is_no_fault(tmp_path: Path) -> None:
    """Wherever the pieces end: within escapes, numbers, words and names."""
    rows = [
        {"question": f'ä\\ "{n}" \n' * 40, "answer": f"{'ü' * n}", "id": n * 1e5}
        for n in range(999)
    ]
    path, findings = tmp_path / "a.json", Findings()
    path.write_text(json.dumps([{**row, "index": None, "nr": True} for row in rows]))
    read = read_rows(path, shown_as="a.json", findings=findings)
    assert findings.problems == []
    assert [row.value["answer"] for row in read] == [row["answer"] for row in rows]


def test_xml_is_named(tmp_path: Path) -> None:
    """As a table it would be a heading without rows."""
    assert said(tmp_path, "a.csv", b"<?xml version='1.0'?><rows><row/></rows>")[0] == (
        "the file is XML"
    )


def test_a_hidden_file_is_refused_for_its_dot() -> None:
    """Not for a folder that it does not lie in; folders of the runner's own are still refused."""
    with pytest.raises(UnsafePathError, match="begins with a dot"):
        path_in_inbox(".rows.jsonl", ".")
    with pytest.raises(UnsafePathError, match="keeps for itself"):
        path_in_inbox(".tmp-x/rows.jsonl", ".")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_word_processors_document_is_named(tmp_path: Path, name: str) -> None:
    """Not a file without rows, as its one line would be."""
    what, _ = said(tmp_path, name, b"{\\rtf1\\ansi Frage; Antwort}\n")
    assert what == "the file is a document of a word processor (RTF)"


@pytest.mark.parametrize(
    ("text", "encoding", "guess"),
    [
        ("\u95ee\u9898,\u7b54\u6848", "gb18030", "another script"),
        ("\u8cea\u554f,\u7b54\u3048", "shift-jis", "another script"),
        (
            "\u0412\u043e\u043f\u0440\u043e\u0441,\u041e\u0442\u0432\u0435\u0442",
            "cp1251",
            "another script",
        ),
        ("Stra\u00dfe Gr\u00f6\u00dfe,\u00c4pfel", "latin-1", "Latin-1"),
        ("\u00e4\u00f6\u00fc,\u00df", "latin-1", "another script"),
    ],
)
def test_another_script_is_not_called_western(
    tmp_path: Path, text: str, encoding: str, guess: str
) -> None:
    """What an undecodable line seems to be written in; nothing but umlauts cannot be told apart."""
    content = b"question,answer\n" + text.encode(encoding) + b"\n"
    what, hint = said(tmp_path, "a.csv", content)
    assert what == "the line is not UTF-8"
    assert guess in hint


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("Gr+APYA3w-e und Stra+AN8-e", True),
        ("a zero\0 within", True),
        ("The class C+AP-1 of 2+AM-3", False),
        ("1+A-1 and A+Aa-", False),
        ("The base64 text +AAAA-", False),
        ("Gr\u00f6\u00dfe \u00a7 5", False),
    ],
)
def test_letters_that_no_one_decoded_are_broken(text: str, *, broken: bool) -> None:
    """UTF-7, and zeros that JSON writes as an escape; sums and grades are no UTF-7."""
    assert is_broken(text) is broken
