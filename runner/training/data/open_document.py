"""OpenDocument sheet: tabs and line ends that the library drops, and what its cells show.

The library gives a cell's value as it is stored. Whether people see it so (19%, 25:03), which rows
a filter hides and which cells are merged stands in `content.xml` beside it.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

CONTENT = "content.xml"
_DROPPED = re.compile(
    rb"<text:(tab|line-break)(?=[\s/>])[^>]*?(?:/>|>\s*</text:(?:tab|line-break)>)"
)
"""Within a text; without them two words stand together as one."""
_NOT_NEEDED = ("Pictures/", "Thumbnails/", "Object ")  # large, and no part of a cell
_SPACE = "{urn:oasis:names:tc:opendocument:xmlns:"
_TABLE, _OFFICE, _TEXT = (f"{_SPACE}{name}:1.0}}" for name in ("table", "office", "text"))
_CELLS = (f"{_TABLE}table-cell", f"{_TABLE}covered-table-cell")
_NUMBERS = ("float", "percentage", "currency")

Place = tuple[int, int]
"""Row and column, from 0."""


@dataclass(kw_only=True)
class Facts:
    """What a sheet says of its cells beside their values."""

    hidden: set[int] = field(default_factory=set)
    """Rows, from 0."""
    merged: set[Place] = field(default_factory=set)
    """Cells whose text stands in a cell above."""
    without_result: set[Place] = field(default_factory=set)
    """Formulas whose result is not saved."""
    shown_otherwise: set[Place] = field(default_factory=set)
    """Numbers that the sheet shows in another form than they are read."""
    durations: dict[Place, str] = field(default_factory=dict)
    """How the sheet shows them: stored is PT25H03M00S."""


def content_of(path: str) -> bytes | None:
    """Give the sheets as they are written, with tabs and line ends as characters; None: no such."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _DROPPED.sub(_as_character, archive.read(CONTENT))
    except KeyError:
        return None


def _as_character(found: re.Match[bytes]) -> bytes:
    return b"\t" if found[1] == b"tab" else b"\n"


def with_content(path: str, content: bytes) -> io.BytesIO:
    """Give the file with other sheets, as far as the library reads it."""
    made = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            if not name.startswith(_NOT_NEEDED):
                new.writestr(name, content if name == CONTENT else old.read(name))
    made.seek(0)
    return made


def facts_of(content: bytes, sheet: str, widths: list[int], read: Callable[[Place], str]) -> Facts:
    """Find what a sheet says beside its values.

    Args:
        content: `content.xml`.
        sheet: its name.
        widths: how many cells each row has that was read; what lies beyond is not looked at.
        read: how a cell's value is read.
    """
    facts, top = Facts(), 0
    for row in _rows(content, sheet):
        most = _count(row, "rows-repeated", len(widths) - top)
        for number in range(top, min(len(widths), top + most)):
            if row.get(f"{_TABLE}visibility", "visible") != "visible":
                facts.hidden.add(number)
            _note_cells(row, number, widths, read, facts)
        top += most
    return facts


def _rows(content: bytes, sheet: str) -> Iterator[ET.Element]:
    """Give the rows of a sheet, each emptied once it has been looked at."""
    inside = False
    for event, element in ET.iterparse(io.BytesIO(content), ("start", "end")):  # noqa: S314  memory is bounded
        if element.tag == f"{_TABLE}table":
            inside = event == "start" and element.get(f"{_TABLE}name") == sheet
        elif event == "end" and element.tag == f"{_TABLE}table-row":
            if inside:
                yield element
            element.clear()


def _note_cells(
    row: ET.Element, number: int, widths: list[int], read: Callable[[Place], str], facts: Facts
) -> None:
    column = 0
    for cell in (cell for cell in row if cell.tag in _CELLS):
        most = _count(cell, "columns-repeated", widths[number] - column)
        for at in range(column, min(widths[number], column + most)):
            _note_cell(cell, (number, at), read, facts)
        below = _count(cell, "rows-spanned", len(widths) - number)
        facts.merged |= {(at, column) for at in range(number + 1, number + below)}
        column += most


def _note_cell(cell: ET.Element, place: Place, read: Callable[[Place], str], facts: Facts) -> None:
    kind = cell.get(f"{_OFFICE}value-type")
    if kind is None and cell.get(f"{_TABLE}formula") is not None:
        facts.without_result.add(place)
    if kind != "time" and kind not in _NUMBERS:
        return
    shown = "\n".join("".join(part.itertext()) for part in cell.findall(f"{_TEXT}p"))
    if kind == "time" and shown:
        facts.durations[place] = shown
    elif shown and shown != read(place):
        facts.shown_otherwise.add(place)


def _count(element: ET.Element, name: str, most: int) -> int:
    """Give how often an element counts, of so many places that there are."""
    written = element.get(f"{_TABLE}number-{name}", "1")
    return max(1, min(int(written), max(1, most))) if written.isdecimal() else 1
