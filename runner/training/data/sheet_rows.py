"""Spreadsheet rows: one sheet of an Excel or OpenDocument file, read as the table it is."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runner.files.unreadable import require_storage
from runner.training.data import sheet_child
from runner.training.data.columns import is_name, shown
from runner.training.data.findings import Findings
from runner.training.data.row import Row
from runner.training.data.table_rows import Record, read_records
from runner.training.data.unpack import TOO_MUCH_HINT, TooMuchError

MOST_BYTES = 256 * 1024**2
"""Of a sheet's XML: it is read as a whole, which takes a few times as much memory. 100,000 rows
with 1,000 letters each are half of it; what is larger belongs into CSV."""
_BLOCK = 64 * 1024  # bytes
_LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name
_SMALLER = (
    "Copy the rows with questions and answers into a new file, and save that; or save the sheet as "
    "CSV UTF-8."
)
_ODD = "Correct or empty the cells that show an error, or save the sheet as CSV UTF-8."
_BROKEN = "Open it in Excel or LibreOffice, and save it again, or save it as CSV UTF-8."


def read_sheet(path: Path, file: str, findings: Findings, sheet: str | None) -> Iterator[Row]:
    """Read the first sheet, or the one of this name; rows are numbered as Excel shows them."""
    findings.row_numbered.add(file)
    before, rows = findings.count, 0
    names: list[str] = []
    try:
        _check_size(path)
        records = _records(path, file, findings, sheet, names)
        for row in read_records(records, file, findings):
            rows += 1
            yield row
        if not rows and len(names) > 1 and findings.count == before:
            chosen, *others = names
            hint = "Say in the spec which sheet is meant: sheet: NAME"
            if named := [other for other in others if is_name(other)]:
                hint = f"Say in the spec which sheet is meant, such as: sheet: {shown(named[:1])}"
            findings.add(file, None, f"the sheet {shown([chosen])!r} has no rows", hint=hint)
    except TooMuchError as error:
        findings.add(file, None, error.what, hint=TOO_MUCH_HINT)
    except _NoSheetError as error:
        what = f"there is no sheet {sheet!r}"
        findings.add(file, None, what, hint=f"Its sheets are: {shown(error.names)}.")
    except _OddError:
        what = "a cell of the sheet holds an error that is not known here, such as #SPILL!"
        findings.add(file, None, what, hint=_ODD)
    except _TooLargeError:
        what = "the spreadsheet takes too much memory or time: a cell far from the others, perhaps"
        findings.add(file, None, what, hint=_SMALLER)
    except (
        *(_BrokenError, zipfile.BadZipFile, OSError, ValueError, zlib.error),
        struct.error,
    ) as error:
        require_storage(error, path)
        findings.add(file, None, "the file is not a spreadsheet that can be read", hint=_BROKEN)


class _NoSheetError(Exception):
    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        super().__init__()


class _BrokenError(Exception):
    """The library cannot read it."""


class _OddError(Exception):
    """One cell holds an error that the library does not know."""


class _TooLargeError(Exception):
    """The process that read it was ended, or gave up for want of memory."""


def _records(
    path: Path, file: str, findings: Findings, sheet: str | None, names: list[str]
) -> Iterator[Record]:
    """Read one sheet in a process of its own, and give its rows as they come.

    Args:
        path: the copy.
        file: as it is shown.
        findings: takes what should be known of it.
        sheet: its name; None: the first one.
        names: takes the sheets' names, that of the one that is read before the others.
    """
    words = [sys.executable, "-m", sheet_child.__name__, str(path)]
    words += [] if sheet is None else [sheet]
    # What the library prints may quote a cell, so nobody sees it.
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout is not None
    try:
        first = child.stdout.readline()
        if not first:
            raise _end_of(child)
        named = json.loads(first)
        if named["chosen"] is None:
            raise _NoSheetError(named["sheets"])
        names += [named["chosen"], *(n for n in named["sheets"] if n != named["chosen"])]
        for other in named["sheets"] if sheet is None else ():
            if other != named["chosen"]:
                what = f"sheets of {file} not read (only the first one is, or the spec's sheet:)"
                findings.unread(what, other)
        for line in child.stdout:
            part = json.loads(line)
            if part == "end":
                return
            number, cells, formatted, hidden = part
            if hidden:
                findings.note("hidden in the sheet, and read all the same", file, number)
            yield Record(line=number, cells=cells, formatted=tuple(formatted))
        raise _end_of(child)
    finally:
        child.stdout.close()
        child.kill()
        child.wait()


def _end_of(child: subprocess.Popen[bytes]) -> Exception:
    """Say what an early end means: a signal, or Python's own end after an error."""
    code = child.wait()
    if code == sheet_child.ODD_ERROR:
        return _OddError()
    too_large = code < 0 or code == sheet_child.NO_MEMORY
    return _TooLargeError() if too_large else _BrokenError()


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
