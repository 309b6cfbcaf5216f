"""Disguised files: contents that are something else than the file's name says."""

from __future__ import annotations

import re

from runner.spec.file_kinds import SAVE_AS, SHEETS
from runner.training.data.columns import TELLING, row_key

_TABLE, _JSON = (".csv", ".tsv"), (".jsonl", ".ndjson", ".json")
LOOKED_AT = 4096  # bytes at the beginning; every mark stands there
_EXCEL = (
    "If it is an Excel file, rename it so that it ends in .xlsx. Or open it in Excel or "
    f"LibreOffice, and {SAVE_AS['.sqlite']}."
)
_AGAIN = "Open it in a browser to see what it says, and download the data file again."
_ARCHIVE = (
    "an archive (tar, 7z, RAR, bzip2 or xz)",
    "Unpack it, and name the files in it; .gz and .zst are read as they are.",
)
_MARKS: dict[bytes, tuple[str, str]] = {
    **dict.fromkeys((b"7z\xbc\xaf", b"Rar!\x1a\x07", b"BZh9", b"\xfd7zXZ"), _ARCHIVE),
    b"PK\x03\x04": ("an Excel file or a zip archive", _EXCEL),
    b"\xd0\xcf\x11\xe0": ("a file of old Excel or Word", _EXCEL),
    b"\x1f\x8b": ("a gzip archive", "Unpack it, or rename it to end in .gz: rows.jsonl.gz."),
    b"\x28\xb5\x2f\xfd": (
        "a zstd archive",
        "Unpack it, or rename it to end in .zst: rows.jsonl.zst.",
    ),
    b"ARROW1": ("an Arrow file", "Rename it so that it ends in .arrow."),
    b"PAR1": ("a Parquet file", "Rename it so that it ends in .parquet."),
    b"{\\rtf": (
        "a document of a word processor (RTF)",
        "Copy its questions and answers into a table, and save that as CSV UTF-8.",
    ),
    b"%PDF": ("a PDF", "Copy its questions and answers into a table, and save that as CSV UTF-8."),
    b"SQLite format 3": ("a database", "Export the table with questions and answers as CSV."),
    b"version https://git-lfs": (
        "a pointer of Git LFS, not the data itself",
        "Fetch the data with: git lfs pull. Or download the file from its web page.",
    ),
}

_TAR_AT = 257  # bytes: the mark of a tar archive stands behind the first file's name and owner
_ZIP = b"PK\x03\x04"
_OFFICE = (b"[Content_Types].xml", b"_rels/", b"docProps/", b"xl/", b"word/", b"mimetype")
"""How the first part of a file of Excel, Word or LibreOffice is named."""
_UNPACK = (
    "a zip archive",
    "Unpack it, and name the files in it; .gz and .zst are read as they are.",
)
_OLE = b"\xd0\xcf\x11\xe0"
_PASSWORD = (
    "protected with a password, or of old Excel",
    "Open it in Excel, take the password away, and save it as .xlsx or as CSV UTF-8.",
)
_OWN = {b"PK\x03\x04": SHEETS, b"PAR1": (".parquet",), b"ARROW1": (".arrow", ".feather")}


def look_through(content: bytes, suffix: str) -> tuple[str, str] | None:
    """Say what a file really is and what to do, or None: it is what its ending says."""
    start = content[:LOOKED_AT].removeprefix(b"\xef\xbb\xbf").lstrip()
    for mark, (what, hint) in _MARKS.items():
        if mark == _ZIP and start.startswith(mark) and _is_archive(start):
            what, hint = _UNPACK  # noqa: PLW2901  of all zip archives this mark tells no more
        if mark == _OLE and suffix in SHEETS:
            what, hint = _PASSWORD  # noqa: PLW2901  the same of what is named as a new one
        if start.startswith(mark) and suffix not in _OWN.get(mark, ()):
            return f"the file is {what}", hint
    if content[_TAR_AT:].startswith(b"ustar"):
        return f"the file is {_ARCHIVE[0]}", _ARCHIVE[1]
    if re.match(rb"(?i)<(!doctype|html|head|body)", start):
        return "the file is a web page, perhaps the one to log in", _AGAIN
    if start.startswith(b"<?xml"):
        return "the file is XML", f"Open it where it was made, and {SAVE_AS['.sqlite']}."
    if suffix in SHEETS and start and _is_text(start):
        return "the file is text, not a spreadsheet", "Rename it so that it ends in .csv."
    if suffix in _TABLE and re.match(rb"\[\s*[{\[]|\{\s*\"", start):
        ending = ".json" if start.startswith(b"[") else ".jsonl"
        return "the file holds JSON, not a table", f"Rename it so that it ends in {ending}."
    if suffix in _JSON and _is_table(start):
        return "the file holds a table, not JSON", "Rename it so that it ends in .csv."
    return None


def _is_archive(start: bytes) -> bool:
    """Tell a zip archive by the name of its first part from a file of Excel, Word or the like."""
    name = start[_ZIP_NAME : _ZIP_NAME + int.from_bytes(start[26:28], "little")]
    return bool(name) and not name.startswith(_OFFICE)


_ZIP_NAME = 30  # bytes of a part's own header stand before its name, whose length is at 26


def _is_text(start: bytes) -> bool:
    """Tell text in any encoding of one byte from a file of a program."""
    return not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", start)


def _is_table(start: bytes) -> bool:
    """Tell a line of column names by two that are known."""
    first = re.split(rb"[\r\n]", start, maxsplit=1)[0].decode("utf-8", "replace")
    cells = re.split(r"[,;\t|]", first)
    named = {row_key(cell.strip().strip('"')).meaning for cell in cells}
    return not first.startswith(("{", "[")) and len(named.intersection(TELLING)) > 1
