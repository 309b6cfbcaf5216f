"""Preview: rows exactly as the model sees them, token by token, learned or only read.

The prepare stage writes them to `prepared/preview.json`; `runner preview` and the report show the
same. It holds rows of the data, so it never leaves the run's folder.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from runner.files.durable import write_json
from runner.files.plain import read_plain

VERSION = 1
_BYTES = 16 * 1024 * 1024


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Why(StrEnum):
    """Why a row is shown."""

    FIRST = "first"
    LONGEST = "longest"
    SHORTEST = "shortest"
    RANDOM = "random"


class Token(_Part):
    """One token, or a few that make one character together."""

    text: str
    learned: bool = False
    """The model learns to write it; else it only reads it."""
    special: bool = False
    """A control token, such as the end of a turn; it is no text of the row."""
    count: int = 1
    """How many tokens ``text`` takes: 2 or more where a character is split."""


class PreviewRow(_Part):
    """One row as the model sees it."""

    row: int
    """Its number among the data's rows, from 0."""
    why: tuple[Why, ...] = ()
    tokens: int
    """In the whole row."""
    learned_tokens: int
    shown: tuple[Token, ...]
    left_out: int = 0
    """Tokens of a very long row that are left out of ``shown``, in one piece."""
    left_out_after: int = 0
    """After how many entries of ``shown`` they are missing."""


class Preview(_Part):
    """prepared/preview.json."""

    version: int = VERSION
    rows: tuple[PreviewRow, ...] = ()
    """The first one first, then the longest, the shortest and random ones."""
    of: int = 0
    """How many rows are trained on."""
    end_tokens: tuple[str, ...] = ()
    """The control tokens that end an answer, as the tokenizer spells them."""


def write_preview(path: Path, preview: Preview) -> None:
    """Write it durably."""
    write_json(path, preview.model_dump(mode="json", exclude_defaults=True))


def read_preview(path: Path) -> Preview | None:
    """Read it; None: it is missing, damaged or too large."""
    try:
        return Preview.model_validate(json.loads(read_plain(path, limit_bytes=_BYTES)))
    except (OSError, ValueError, ValidationError, RecursionError):
        return None
