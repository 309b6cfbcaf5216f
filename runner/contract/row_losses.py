"""Losses of single rows: how likely the base model found each answer before any training.

The train stage writes them to `row_loss.json` in its attempt's folder, once a run; the report reads
them. Nothing that stands in a row stands here: files, lines and figures only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runner.contract.findings import DataFinding, Place
from runner.contract.layout import RunFolder
from runner.files.durable import write_json
from runner.files.plain import read_plain

NAME = "row_loss.json"
HARDEST, EASIEST = 10, 5
"""Rows that are shown: a person looks the hardest up; the easiest show what is known already."""
_BYTES = 4 * 1024 * 1024  # 512 rows take some 50 KB; names of files may be long


class MeasuredRow(Place):
    """One row and its loss."""

    row: int | None = None
    """Its place in the data, counted over all files from 0; older runs did not note it."""
    loss: float = Field(allow_inf_nan=False, ge=0)
    """Nats per learned token."""


class RowLosses(BaseModel):
    """row_loss.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    learned_rows: int = 0
    """How many rows the run learns; of very many, some are measured."""
    rows: tuple[MeasuredRow, ...] = ()
    """The measured ones, the highest loss first; empty: it was begun, and nothing came of it."""
    findings: tuple[DataFinding, ...] = ()
    """What the losses say of the data."""


def losses_begun(run: RunFolder) -> bool:
    """Whether an attempt has measured, or ended while it did: then it is not tried again."""
    return any(run.attempts.glob(f"*/{NAME}"))


def write_row_losses(attempt: Path, found: RowLosses) -> None:
    """Write them durably."""
    write_json(attempt / NAME, found.model_dump(mode="json"))


def read_row_losses(run: RunFolder) -> RowLosses:
    """Read what a run's attempts measured; missing, damaged or too large: nothing."""
    for path in sorted(run.attempts.glob(f"*/{NAME}")):
        try:
            found = RowLosses.model_validate(json.loads(read_plain(path, limit_bytes=_BYTES)))
        except (OSError, ValueError, ValidationError, RecursionError):
            continue
        if found.rows:
            return found
    return RowLosses()


def ends_of(
    rows: Sequence[MeasuredRow],
) -> tuple[Sequence[MeasuredRow], Sequence[MeasuredRow]]:
    """Give the rows that are shown, of rows with the highest loss first: hardest, easiest."""
    hardest = min(HARDEST, (len(rows) + 1) // 2)
    easiest = min(EASIEST, len(rows) - hardest)
    return rows[:hardest], rows[len(rows) - easiest :][::-1]


def with_more(
    before: Sequence[DataFinding], more: Sequence[DataFinding]
) -> tuple[DataFinding, ...]:
    """Add findings; those of the same check take the place of earlier ones."""
    new = {finding.check for finding in more}
    return (*(one for one in before if one.check not in new), *more)
