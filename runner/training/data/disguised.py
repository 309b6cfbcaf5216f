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
    "an archive (7z, RAR, bzip2 or xz)",
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

_OWN = {b"PK\x03\x04": SHEETS, b"PAR1": (".parquet",), b"ARROW1": (".arrow", ".feather")}


def look_through(content: bytes, suffix: str) -> tuple[str, str] | None:
    """Say what a file really is and what to do, or None: it is what its ending says."""
    start = content[:LOOKED_AT].removeprefix(b"\xef\xbb\xbf").lstrip()
    for mark, (what, hint) in _MARKS.items():
        if start.startswith(mark) and suffix not in _OWN.get(mark, ()):
            return f"the file is {what}", hint
    if re.match(rb"(?i)<(!doctype|html|head|body)", start):
        return "the file is a web page, perhaps the one to log in", _AGAIN
    if start.startswith(b"<?xml"):
        return "the file is XML", f"Open it where it was made, and {SAVE_AS['.sqlite']}."
    if suffix in _TABLE and re.match(rb"\[\s*[{\[]|\{\s*\"", start):
        ending = ".json" if start.startswith(b"[") else ".jsonl"
        return "the file holds JSON, not a table", f"Rename it so that it ends in {ending}."
    if suffix in _JSON and _is_table(start):
        return "the file holds a table, not JSON", "Rename it so that it ends in .csv."
    return None


def _is_table(start: bytes) -> bool:
    """Tell a line of column names by two that are known."""
    first = re.split(rb"[\r\n]", start, maxsplit=1)[0].decode("utf-8", "replace")
    cells = re.split(r"[,;\t|]", first)
    named = {row_key(cell.strip().strip('"')).meaning for cell in cells}
    return not first.startswith(("{", "[")) and len(named.intersection(TELLING)) > 1
