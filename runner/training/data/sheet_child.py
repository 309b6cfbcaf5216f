"""Sheet child: a process of its own that reads one spreadsheet, and may fail by itself.

    python -m runner.training.data.sheet_child FILE [SHEET]

A file of a few KB can claim a cell at XFD1048576, or repeat a row four thousand million times: the
library then makes room for all of it, and aborts. Here that costs this process, whose memory and
time are bounded, and the file is refused. What it read goes to the output as lines of JSON: first
the names of the sheets, then row after row as ``[number, cells, columns, hidden]``, at last
``"end"``; ``columns`` hold numbers or dates that the sheet shows in another form than is read.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import zipfile
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from typing import Any
from xml.etree import ElementTree as ET

from runner.training.data import open_document

MOST_MEMORY = 3 * 1024**3
"""Bytes of addresses: a few times the largest sheet that is read (`sheet_rows.MOST_BYTES`)."""
MOST_SECONDS = 120  # of computing
NO_MEMORY, ODD_ERROR = 3, 4  # exit statuses
MARK = "\ufdd4"
"""Begins a cell that has no text of its own; a noncharacter of Unicode, which no file holds."""
FORMULA, MERGED = f"{MARK}formula", f"{MARK}merged"
_REFERENCE = re.compile(r"([A-Z]{1,3})([0-9]{1,7})")
_NO_RESULT = re.compile(
    r'<c r="([A-Z]{1,3}[0-9]{1,7})"[^>]*>\s*<f(?:[^>]*/>|[^>]*>[^<]*</f>)'
    r"\s*(?:<v\s*/>|<v>\s*</v>)?\s*</c>"
)
"""A formula whose result was not saved, as programs write it that do not calculate."""
_STYLED = re.compile(r'<c r="([A-Z]{1,3}[0-9]{1,7})" s="([0-9]{1,5})"(?: t="n")?><(?:f|v)[>\s]')
"""A number with a style, the result of a formula among them; texts say what they are in ``t``."""
_HIDDEN = re.compile(r'<row r="([0-9]{1,7})"[^>]*\bhidden="(?:1|true)"')
_AS_WRITTEN = ("0", "1", "49")
"""Number formats (ECMA-376, 18.8.30) that show a number as it is: General, 0, and text."""
_SPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_LINK = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def main(path: str, sheet: str | None) -> None:
    """Read one sheet and write it out."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from python_calamine import CalamineWorkbook, SheetVisibleEnum

    content = open_document.content_of(path)
    source = path if content is None else open_document.with_content(path, content)
    with CalamineWorkbook.from_object(source) as book:
        names = list(book.sheet_names)
        visible = [s.name for s in book.sheets_metadata if s.visible == SheetVisibleEnum.Visible]
        chosen = choose(names, sheet, visible)
        _write({"sheets": names, "chosen": chosen})
        if chosen is None:
            return
        found = book.get_sheet_by_name(chosen)
        merged = [*(found.merged_cell_ranges or ())]
        rows = found.to_python(skip_empty_area=False)
    part = sheet_part(path, chosen)
    facts = _facts(content, chosen, rows)
    lost = dict.fromkeys([*without_result(part), *facts.without_result], FORMULA)
    for (top, column), (bottom, _) in merged:
        lost |= {(row, column): MERGED for row in range(top + 1, min(bottom + 1, len(rows)))}
    lost |= dict.fromkeys(facts.merged, MERGED)
    by_row: dict[int, dict[int, str]] = {}
    for (row, column), mark in lost.items():
        by_row.setdefault(row, {})[column] = mark
    hidden = facts.hidden | {int(row[1]) - 1 for row in _HIDDEN.finditer(part)}
    formatted = facts.shown_otherwise | shown_otherwise(path, part)
    for number, cells in enumerate(rows):
        texts = [
            facts.durations.get((number, column)) or as_shown(cell)
            for column, cell in enumerate(cells)
        ]
        for column, mark in by_row.get(number, {}).items():
            if column < len(texts) and not texts[column].strip():
                texts[column] = mark
        if any(text.strip() for text in texts):
            other = [
                n for n, cell in enumerate(cells) if (number, n) in formatted or _is_date(cell)
            ]
            _write([number + 1, texts, other, number in hidden])
    _write("end")


def _facts(content: bytes | None, sheet: str, rows: list[list[Any]]) -> open_document.Facts:
    """Find what a sheet of OpenDocument says beside its values; of others, nothing here."""
    if content is None:
        return open_document.Facts()

    def read(place: open_document.Place) -> str:
        return as_shown(rows[place[0]][place[1]])

    try:
        return open_document.facts_of(content, sheet, [len(row) for row in rows], read)
    except ET.ParseError:
        return open_document.Facts()


def choose(names: list[str], sheet: str | None, visible: list[str]) -> str | None:
    """Give the sheet that is read: the first that is shown, or that of this name; None: none."""
    if sheet is None or sheet in names:
        return sheet if sheet is not None else next(iter([*visible, *names]))
    folded = [name for name in names if name.casefold() == sheet.casefold()]
    return folded[0] if len(folded) == 1 else None


def _write(part: Any) -> None:
    print(json.dumps(part))


def as_shown(cell: Any) -> str:
    """Give a cell as the program shows it, near enough: 3.0 is 3, a date has no midnight."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    if isinstance(cell, datetime):
        whole_day = cell.time() == time(0)
        return cell.date().isoformat() if whole_day else cell.isoformat(sep=" ")
    if isinstance(cell, date | time):
        return cell.isoformat()
    if isinstance(cell, timedelta):
        return _hours(cell)
    return str(cell)


def _hours(duration: timedelta) -> str:
    """Give a duration as a sheet shows it: 25:03:00, and not "1 day, 1:03:00"."""
    minutes, seconds = divmod(round(abs(duration.total_seconds())), 60)
    sign = "-" if duration < timedelta(0) else ""
    return f"{sign}{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _is_date(cell: Any) -> bool:
    return isinstance(cell, date | time | timedelta)


def sheet_part(path: str, sheet: str) -> str:
    """Give a sheet of an Excel file as it is written; empty where the file is of another kind."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(_part_of(archive, sheet)).decode("utf-8", "replace")
    except (KeyError, StopIteration, ET.ParseError):
        return ""  # OpenDocument, or written in another way: what is looked for here is not told


def without_result(part: str) -> Iterator[tuple[int, int]]:
    """Give row and column, from 0, of each formula whose result is missing."""
    for found in _NO_RESULT.finditer(part):
        if (place := _place(found[1])) is not None:
            yield place


def shown_otherwise(path: str, part: str) -> set[tuple[int, int]]:
    """Give row and column, from 0, of each number that is shown as a percentage or an amount."""
    try:
        with zipfile.ZipFile(path) as archive:
            styles = ET.fromstring(archive.read("xl/styles.xml"))  # noqa: S314  memory is bounded
    except (KeyError, ET.ParseError, zipfile.BadZipFile):
        return set()
    cells = styles.find(f"{_SPACE}cellXfs")
    kinds = [style.get("numFmtId", "0") for style in cells] if cells is not None else []
    found = ((_place(cell[1]), int(cell[2])) for cell in _STYLED.finditer(part))
    return {
        place
        for place, style in found
        if place is not None and style < len(kinds) and kinds[style] not in _AS_WRITTEN
    }


def _place(reference: str) -> tuple[int, int] | None:
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        return None
    column = 0
    for letter in match[1]:
        column = 26 * column + ord(letter) - ord("A") + 1
    return int(match[2]) - 1, column - 1


def _part_of(archive: zipfile.ZipFile, sheet: str) -> str:
    """Name the part of an Excel file that holds a sheet."""
    book = ET.fromstring(archive.read("xl/workbook.xml"))  # noqa: S314  memory is bounded
    links = ET.fromstring(archive.read("xl/_rels/workbook.xml.rels"))  # noqa: S314
    link = next(s.get(_LINK) for s in book.iter(f"{_SPACE}sheet") if s.get("name") == sheet)
    target = next(str(r.get("Target")) for r in links if r.get("Id") == link)
    return target.lstrip("/") if target.startswith("/") else f"xl/{target}"


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
    except MemoryError:
        sys.exit(NO_MEMORY)
    except Exception as error:
        if "cell error value" not in str(error):
            raise
        sys.exit(ODD_ERROR)  # calamine knows those of Excel 2007: one newer cell, and it reads none
