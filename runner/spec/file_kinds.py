"""Kinds of files: which ones are read as rows, and what to save the others as.

One table for everything that meets a file of the wrong kind: a spec's path, the rows' reader, and
a file that was dropped alone into the inbox.
"""

from __future__ import annotations

import os

ROWS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Endings of files that are read as rows."""

_AS_CSV = "save it as CSV (in Excel: File > Save As > CSV UTF-8), one row for each question"
_AS_TEXT = (
    "copy its questions and answers into a table and save that as CSV UTF-8, one row for each "
    "question"
)
_UNPACK = "unpack it into data/ and name the files in it"

_RENAME = (
    "if it holds one JSON object a line, rename it so that it ends in .jsonl; if it holds a table, "
    "in .csv"
)

READABLE = "save it as JSON Lines (.jsonl), JSON (.json), CSV (.csv, .tsv) or Parquet"

SAVE_AS = {
    **dict.fromkeys((".txt", ".text", ".log"), _RENAME),
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"), _AS_CSV),
    **dict.fromkeys((".docx", ".doc", ".odt", ".rtf", ".pages", ".pdf", ".md"), _AS_TEXT),
    **dict.fromkeys((".htm", ".html", ".msg", ".eml", ".pptx", ".ppt"), _AS_TEXT),
    **dict.fromkeys((".zip", ".7z", ".rar", ".gz", ".tgz", ".tar", ".bz2", ".xz"), _UNPACK),
    **dict.fromkeys((".xml", ".sqlite", ".db", ".mdb", ".accdb"), _AS_CSV),
}
"""Ending → what to do with a file that is not read as it is."""


def ending(name: str) -> str:
    """Give a file's ending, in small letters: ``.jsonl``; empty where it has none."""
    return os.path.splitext(name.strip())[1].lower()


def looks_like_a_file(name: str) -> bool:
    """Whether a text ends as the name of a data file does, one that is read or one that is not."""
    return ending(name) in ROWS or ending(name) in SAVE_AS
