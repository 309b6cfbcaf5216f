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
        if self.rows == 1:
            return f"since the job's last run (1 row): {', '.join(parts)}"
        return f"since the job's last run ({self.rows} rows): {', '.join(parts)}"


def _are(count: int) -> str:
    return "1 row is" if count == 1 else f"{count} rows are"


def compare(before: Rows, now: Rows) -> Growth:
    """Compare the rows of two runs; a row that stands there twice counts twice."""
    import numpy as np

    came = _places(now, *_surplus(now, before))
    left = _places(before, *_surplus(before, now))
    asked, times = np.unique(came, return_counts=True)
    once, had = np.unique(left, return_counts=True)
    _, at, to = np.intersect1d(asked, once, assume_unique=True, return_indices=True)
    changed = int(np.minimum(times[at], had[to]).sum())
    return Growth(
        new=len(came) - changed, changed=changed, gone=len(left) - changed, rows=len(before)
    )


def _surplus(mine: Rows, theirs: Rows) -> tuple[Any, Any]:
    """Give the contents that one side has more often than the other, and how much more often."""
    import numpy as np

    keys, counts = np.unique(mine.content, return_counts=True)
    others, had = np.unique(theirs.content, return_counts=True)
    for start in range(0, len(keys) if len(others) else 0, _AT_ONCE):
        some = keys[start : start + _AT_ONCE]
        at = np.minimum(np.searchsorted(others, some), len(others) - 1)
        counts[start : start + _AT_ONCE] -= np.where(others[at] == some, had[at], 0)
    more = counts > 0
    return keys[more], counts[more]


def _places(rows: Rows, keys: Any, times: Any) -> Any:
    """Give what the first row of each content asks, by its place, so many times."""
    import numpy as np

    first: Any = np.zeros(len(keys), "int64")
    content = rows.content if len(keys) else keys
    for start in range((len(content) - 1) // _AT_ONCE * _AT_ONCE, -1, -_AT_ONCE):
        some = content[start : start + _AT_ONCE]
        at = np.minimum(np.searchsorted(keys, some), len(keys) - 1)
        found = np.flatnonzero(keys[at] == some)[::-1]  # the earliest is written last
        first[at[found]] = start + found
    return np.repeat(rows.place[first], times) if len(keys) else np.zeros(0)


_AT_ONCE = 1_000_000  # rows: 20 MB


def last_rows(folders: Sequence[Path]) -> Rows | None:
    """Read the table of the newest earlier run that has one."""
    for folder in reversed(folders):
        try:
            return open_row_table(folder / "rows.arrow")
        except (OSError, ValueError, KeyError, TypeError):
            pass  # erased, or of an older runner, or broken: the one before it does as well
    return None
