"""Growing data: which rows are new, changed and gone since the job's last run.

A row is known by a hash of what it asks and a hash of all that it says: the same question with
another answer is a changed row. Both hashes stand in prepared/rows.arrow of every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.contract.record import DataChange
from runner.training.data.token_table import Rows, open_row_table


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How the data differs from that of an earlier run."""

    new: int
    changed: int
    gone: int
    rows: int
    """Of the earlier run."""

    @property
    def differs(self) -> bool:
        """Whether anything is another than it was."""
        return bool(self.new or self.changed or self.gone)

    def as_record(self) -> DataChange:
        """Give it as the record has it."""
        return DataChange(new=self.new, changed=self.changed, gone=self.gone, rows_before=self.rows)

    def sentence(self) -> str:
        """Say it in words."""
        if not self.differs:
            return "the rows are the same as in the job's last run"
        parts = [
            f"{_are(count)} {word}"
            for count, word in (
                (self.new, "new"),
                (self.changed, "changed"),
                (self.gone, "no longer there"),
            )
            if count
        ]
        rows = "1 row" if self.rows == 1 else f"{self.rows} rows"
        return f"since the job's last run ({rows}): {', '.join(parts)}"


def _are(count: int) -> str:
    return "1 row is" if count == 1 else f"{count} rows are"


def compare(before: Rows, now: Rows) -> Growth:
    """Compare the rows of two runs; a row that stands there twice counts twice."""
    import numpy as np

    was, said = np.unique(before.content, return_counts=True)
    still, says = np.unique(now.content, return_counts=True)
    more = _surplus(still, says, was, said)  # rows that were not there
    less = _surplus(was, said, still, says)  # rows that are not there now
    came = _places(now, more)
    left = _places(before, less)
    asked, times = np.unique(came, return_counts=True)
    once, had = np.unique(left, return_counts=True)
    _, at, to = np.intersect1d(asked, once, assume_unique=True, return_indices=True)
    changed = int(np.minimum(times[at], had[to]).sum())
    return Growth(
        new=len(came) - changed, changed=changed, gone=len(left) - changed, rows=len(before)
    )


def _surplus(keys: Any, counts: Any, others: Any, other_counts: Any) -> Any:
    """Give by key how often it stands there beyond the other side's times."""
    import numpy as np

    had: Any = np.zeros(len(keys), counts.dtype)
    _, mine, theirs = np.intersect1d(keys, others, assume_unique=True, return_indices=True)
    had[mine] = other_counts[theirs]
    return np.maximum(counts - had, 0)


def _places(rows: Rows, surplus: Any) -> Any:
    """Give what the surplus rows ask, by its place; surplus is in the order of their hashes."""
    import numpy as np

    _, first = np.unique(rows.content, return_index=True)
    return np.repeat(rows.place[first], surplus)


def last_rows(folders: Sequence[Path]) -> Rows | None:
    """Read the table of the newest earlier run that has one."""
    for folder in reversed(folders):
        try:
            return open_row_table(folder / "rows.arrow")
        except (OSError, ValueError, KeyError, TypeError):
            pass  # erased, or of an older runner, or broken: the one before it does as well
    return None
