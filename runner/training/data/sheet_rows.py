"""Spreadsheet rows: one sheet of an Excel or OpenDocument file, read as the table it is."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from runner.training.data.columns import shown
from runner.training.data.findings import Findings
from runner.training.data.row import Row
from runner.training.data.table_rows import Record, read_records
from runner.training.data.unpack import TOO_MUCH_HINT, TooMuchError

MOST_BYTES = 256 * 1024**2
"""Of a sheet's XML: it is read as a whole, which takes a few times as much memory. 100,000 rows
with 1,000 letters each are half of it; what is larger belongs into CSV."""
_BLOCK = 64 * 1024  # bytes
_LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name
_BROKEN = "Open it in Excel or LibreOffice, and save it again, or save it as CSV UTF-8."


def read_sheet(path: Path, file: str, findings: Findings, sheet: str | None) -> Iterator[Row]:
    """Read the first sheet, or the one of this name; rows are numbered as Excel shows them."""
    findings.row_numbered.add(file)
    try:
        _check_size(path)
        others, records = _records(path, sheet)
    except TooMuchError as error:
        findings.add(file, None, error.what, hint=TOO_MUCH_HINT)
        return
    except _NoSheetError as error:
        what = f"there is no sheet {sheet!r}"
        findings.add(file, None, what, hint=f"Its sheets are: {shown(error.names)}.")
        return
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        # The library has a dozen errors of its own; each says that the file is not what it should.
        findings.add(file, None, "the file is not a spreadsheet that can be read", hint=_BROKEN)
        return
    if sheet is None:
        for other in others:
            what = f"sheets of {file} not read (only the first one is, or the spec's sheet:)"
            findings.unread(what, other)
    yield from read_records(iter(records), file, findings)


class _NoSheetError(Exception):
    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        super().__init__()


def _records(path: Path, sheet: str | None) -> tuple[list[str], list[Record]]:
    """Read one sheet; give the names of the others, and its rows."""
    from python_calamine import CalamineWorkbook

    with CalamineWorkbook.from_path(str(path)) as book:
        names = list(book.sheet_names)
        if sheet is not None and sheet not in names:
            folded = [name for name in names if name.casefold() == sheet.casefold()]
            if len(folded) != 1:
                raise _NoSheetError(names)
            sheet = folded[0]
        chosen = sheet if sheet is not None else names[0]
        found = book.get_sheet_by_name(chosen)
        rows = found.to_python(skip_empty_area=False)
    records = [
        Record(line=number, cells=[_text(cell) for cell in cells])
        for number, cells in enumerate(rows, start=1)
    ]
    filled = [record for record in records if any(cell.strip() for cell in record.cells)]
    return [name for name in names if name != chosen], filled


def _text(cell: Any) -> str:
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


def _check_size(path: Path) -> None:
    """Unpack every part of the file without keeping it, as far as it may go.

    Raises:
        TooMuchError: more comes out than is read as a whole, whatever the file says of its sizes.
        zipfile.BadZipFile: it is not such a file.
    """
    unpacked = 0
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.compress_type == zipfile.ZIP_STORED:
                unpacked += member.compress_size
            elif member.compress_type == zipfile.ZIP_DEFLATED:
                file.seek(member.header_offset)
                header = file.read(_LOCAL_HEADER)
                lengths = struct.unpack("<HH", header[26:30])
                file.seek(sum(lengths), 1)
                unpacked += _inflated(file, member.compress_size, MOST_BYTES - unpacked)
            else:
                raise zipfile.BadZipFile
            if unpacked > MOST_BYTES:
                raise TooMuchError(MOST_BYTES)


def _inflated(file: Any, packed: int, most: int) -> int:
    """Count what comes out of a compressed part; stop once it is too much."""
    stream, count = zlib.decompressobj(-15), 0
    while packed > 0 and count <= most and (block := file.read(min(packed, _BLOCK))):
        packed -= len(block)
        while block and count <= most:
            count += len(stream.decompress(block, _BLOCK))
            block = stream.unconsumed_tail
    return count
