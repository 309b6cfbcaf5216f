"""Sheet child: a process of its own that reads one spreadsheet, and may fail by itself.

    python -m runner.training.data.sheet_child FILE [SHEET]

A file of a few KB can claim a cell at XFD1048576, or repeat a row four thousand million times: the
library then makes room for all of it, and aborts. Here that costs this process, whose memory and
time are bounded, and the file is refused. What it read goes to the output as lines of JSON: first
the names of the sheets, then row after row as ``[number, cells]``, at last ``"end"``.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import zipfile
from collections.abc import Iterator
from datetime import date, datetime, time
from typing import Any
from xml.etree import ElementTree as ET

MOST_MEMORY = 3 * 1024**3
"""Bytes of addresses: a few times the largest sheet that is read (`sheet_rows.MOST_BYTES`)."""
MOST_SECONDS = 120  # of computing
NO_MEMORY = 3  # exit status
MARK = "\ufdd4"
"""Begins a cell that has no text of its own; a noncharacter of Unicode, which no file holds."""
FORMULA, MERGED = f"{MARK}formula", f"{MARK}merged"
_REFERENCE = re.compile(r"([A-Z]{1,3})([0-9]{1,7})")
_NO_RESULT = re.compile(
    r'<c r="([A-Z]{1,3}[0-9]{1,7})"[^>]*>\s*<f(?:[^>]*/>|[^>]*>[^<]*</f>)'
    r"\s*(?:<v\s*/>|<v>\s*</v>)?\s*</c>"
)
"""A formula whose result was not saved, as programs write it that do not calculate."""
_SPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_LINK = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def main(path: str, sheet: str | None) -> None:
    """Read one sheet and write it out."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from python_calamine import CalamineWorkbook

    with CalamineWorkbook.from_path(path) as book:
        names = list(book.sheet_names)
        chosen = choose(names, sheet)
        _write({"sheets": names, "chosen": chosen})
        if chosen is None:
            return
        found = book.get_sheet_by_name(chosen)
        merged = [*(found.merged_cell_ranges or ())]
        rows = found.to_python(skip_empty_area=False)
    lost = dict.fromkeys(without_result(path, chosen), FORMULA)
    for (top, column), (bottom, _) in merged:
        lost |= {(row, column): MERGED for row in range(top + 1, min(bottom + 1, len(rows)))}
    by_row: dict[int, dict[int, str]] = {}
    for (row, column), mark in lost.items():
        by_row.setdefault(row, {})[column] = mark
    for number, cells in enumerate(rows):
        texts = [as_shown(cell) for cell in cells]
        for column, mark in by_row.get(number, {}).items():
            if column < len(texts) and not texts[column].strip():
                texts[column] = mark
        if any(text.strip() for text in texts):
            _write([number + 1, texts])
    _write("end")


def choose(names: list[str], sheet: str | None) -> str | None:
    """Give the sheet that is read: the first one, or that of this name; None: there is none."""
    if sheet is None or sheet in names:
        return sheet if sheet is not None else names[0]
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
    return str(cell)


def without_result(path: str, sheet: str) -> Iterator[tuple[int, int]]:
    """Give row and column, from 0, of each formula in an Excel file whose result is missing."""
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(_part_of(archive, sheet)).decode("utf-8", "replace")
    except (KeyError, StopIteration, ET.ParseError):
        return  # OpenDocument, or written in another way: then such a cell counts as empty
    for found in _NO_RESULT.finditer(text):
        if reference := _REFERENCE.fullmatch(found[1]):
            column = 0
            for letter in reference[1]:
                column = 26 * column + ord(letter) - ord("A") + 1
            yield int(reference[2]) - 1, column - 1


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
