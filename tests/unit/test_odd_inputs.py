"""Odd inputs that people really have: each is said as what it is, or found by a check."""

from __future__ import annotations

import gzip
import json
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
