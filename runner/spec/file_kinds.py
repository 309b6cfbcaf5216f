"""Kinds of files: which ones are read as rows, and what to save the others as.

One table for everything that meets a file of the wrong kind: a spec's path, the rows' reader, and
a file that was dropped alone into the inbox.
"""

from __future__ import annotations

import os

TEXTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
"""Endings of files of text that are read as rows."""
SHEETS = (".xlsx", ".xlsm", ".ods")
PACKED = (".gz", ".zst", ".zstd")
"""Endings of compressed files of text: rows.jsonl.gz."""
ROWS = (
    *TEXTS,
    *(".parquet", ".arrow", ".feather"),
    *SHEETS,
    *(text + packed for text in TEXTS for packed in PACKED),
)
"""Endings of files that are read as rows."""

_AS_CSV = "save it as CSV (in Excel: File > Save As > CSV UTF-8), one row for each question"
_AS_SHEET = "save it as .xlsx or .ods (in Excel: File > Save As), one row for each question"
_AS_TEXT = (
    "copy its questions and answers into a table and save that as CSV UTF-8, one row for each "
    "question"
)
_UNPACK = "unpack it into data/ and name the files in it"

_RENAME = (
    "if it holds one JSON object a line, rename it so that it ends in .jsonl; if it holds a table, "
    "in .csv"
)

READABLE = (
    "save it as JSON Lines (.jsonl), JSON (.json), CSV (.csv, .tsv), Excel (.xlsx) or Parquet"
)

SAVE_AS = {
    **dict.fromkeys((".txt", ".text", ".log"), _RENAME),
    **dict.fromkeys((".xls", ".xlsb", ".numbers", ".fods"), _AS_SHEET),
    **dict.fromkeys((".docx", ".doc", ".odt", ".rtf", ".pages", ".pdf", ".md"), _AS_TEXT),
    **dict.fromkeys((".htm", ".html", ".msg", ".eml", ".pptx", ".ppt"), _AS_TEXT),
    **dict.fromkeys((".zip", ".7z", ".rar", ".tgz", ".tar", ".bz2", ".xz", *PACKED), _UNPACK),
    **dict.fromkeys((".xml", ".sqlite", ".db", ".mdb", ".accdb"), _AS_CSV),
}
"""Ending → what to do with a file that is not read as it is."""


def ending(name: str) -> str:
    """Give a file's ending, in small letters: ``.jsonl``; empty where it has none.

    That of compressed rows has two parts: ``.jsonl.gz``.
    """
    stem, last = os.path.splitext(name.strip().lower())
    if last in PACKED and (inner := os.path.splitext(stem)[1]) in TEXTS:
        return inner + last
    return last


def looks_like_a_file(name: str) -> bool:
    """Whether a text ends as the name of a data file does, one that is read or one that is not."""
    return ending(name) in ROWS or ending(name) in SAVE_AS
