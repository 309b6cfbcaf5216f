"""Row: one row as it stands in its file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row as it stands in its file."""

    file: str
    """The file as the spec names it."""
    line: int
    """1-based line where the row begins (in files without lines of text: the row's number)."""
    value: dict[str, Any]
    heading: int | None = None
    """In a table, the line of the column names: a fault of theirs is said once, not per row."""
    size: int = field(default=0, compare=False)
    """Characters that it holds, roughly: rows are worked on in batches of about the same size."""
