"""OpenDocument: cells are read as LibreOffice shows them, or it is said that they are not."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from runner.training.data.findings import Findings
from runner.training.data.rows import read_rows

SPACE = "urn:oasis:names:tc:opendocument:xmlns"
TEXT = "<table:table-cell office:value-type='string'><text:p>{}</text:p></table:table-cell>"
NUMBER = "<table:table-cell office:value-type='{}' office:{}><text:p>{}</text:p></table:table-cell>"
STORED = "with a number or date as answer that is read as it is stored"


def row(*cells: str, more: str = "") -> str:
    """Write a row; a cell that is no XML is a text."""
    written = (cell if cell.startswith("<table:") else TEXT.format(cell) for cell in cells)
    return f"<table:table-row {more}>{''.join(written)}</table:table-row>"


def read(tmp_path: Path, *rows: str) -> tuple[dict[int, object], Findings]:
    """Read a table of questions and answers as LibreOffice 7.4.7 writes it; give the answers."""
    table = row("question", "answer") + "".join(rows)
    content = (
        f"<office:document-content xmlns:office='{SPACE}:office:1.0' "
        f"xmlns:table='{SPACE}:table:1.0' xmlns:text='{SPACE}:text:1.0'>"
        f"<office:body><office:spreadsheet>"
        f"<table:table table:name='A'>{table}</table:table>"
        f"<table:table table:name='B'>{row('x', more=HIDDEN)}</table:table>"
        "</office:spreadsheet></office:body></office:document-content>"
    )
    path, findings = tmp_path / "copy", Findings()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("META-INF/manifest.xml", "<manifest/>")
        archive.writestr("content.xml", content)
    path.write_bytes(made.getvalue())
    found = read_rows(path, shown_as="a.ods", findings=findings)
    return {one.line: one.value.get("answer") for one in found}, findings


HIDDEN = "table:visibility='filter'"


def test_tabs_and_line_ends_within_a_text_stay(tmp_path: Path) -> None:
    """They are elements there; without them two words stood together as one."""
    answers, _ = read(
        tmp_path,
        row("q1", "a<text:tab/>b"),
        row("q2", "a<text:line-break/>b<text:tab text:tab-ref='1'></text:tab>c"),
        row("q3", "a <text:s text:c='2'/>b"),
    )
    assert answers == {2: "a\tb", 3: "a\nb\tc", 4: "a   b"}


def test_a_duration_is_read_as_it_is_shown(tmp_path: Path) -> None:
    """25:03:00 is stored as PT25H03M00S, which nobody has ever written into a cell."""
    cell = NUMBER.format("time", "time-value='PT25H03M00S'", "25:03:00")
    answers, _ = read(tmp_path, row("q1", cell))
    assert answers == {2: "25:03:00"}


def test_numbers_that_are_shown_otherwise_are_said(tmp_path: Path) -> None:
    """A share, an amount, a decimal comma; not a number that is read as it is shown."""
    answers, findings = read(
        tmp_path,
        row("q1", NUMBER.format("percentage", "value='0.19'", "19%")),
        row("q2", NUMBER.format("currency", "value='1234.5'", "1.234,50 €")),
        row("q3", NUMBER.format("float", "value='1.5'", "1,5")),
        row("q4", NUMBER.format("float", "value='3'", "3")),
        row("q5", NUMBER.format("float", "value='1.5'", "1.5")),
    )
    assert answers == {2: "0.19", 3: "1234.5", 4: "1.5", 5: "3", 6: "1.5"}
    (note,) = findings.notes[1:]
    assert note.startswith(f"3 rows {STORED}")
    assert note.endswith("a.ods, rows 2, 3 and 4")


def test_rows_that_a_filter_hides_are_said(tmp_path: Path) -> None:
    """Of the sheet that is read, repeated rows each; another sheet's are not counted."""
    repeated = f"{HIDDEN} table:number-rows-repeated='2'"
    answers, findings = read(tmp_path, row("q1", "a"), row("q2", "b", more=repeated))
    assert list(answers) == [2, 3, 4]
    assert findings.notes[1:] == [
        "2 rows hidden in the sheet, and read all the same: a.ods, rows 3 and 4"
    ]


def test_merged_cells_and_formulas_without_a_result_say_so(tmp_path: Path) -> None:
    """Each with its own way to set it right, as in a file of Excel."""
    merged = "<table:table-cell office:value-type='string' table:number-rows-spanned='2'>"
    formula = "<table:table-cell table:formula='of:=1+1'/>"
    answers, _ = read(
        tmp_path,
        row("q1", f"{merged}<text:p>a</text:p></table:table-cell>"),
        row("q2", "<table:covered-table-cell/>"),
        row("q3", formula),
    )
    assert answers[2] == "a"
    assert str(answers[3]).endswith("merged")
    assert str(answers[4]).endswith("formula")


def test_a_sheet_that_claims_to_be_endless_is_bounded(tmp_path: Path) -> None:
    """Rows and columns that repeat without end cost no time beyond those that are there."""
    many = "table:number-rows-repeated='1048000' " + HIDDEN
    empty = "<table:table-cell table:number-columns-repeated='16000'/>"
    endless = f"<table:table-row {many}>{empty}</table:table-row>"
    answers, findings = read(tmp_path, row("q1", "a"), endless)
    assert answers == {2: "a"}
    assert not findings.problems
