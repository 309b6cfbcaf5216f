"""Held-out rows: each one's loss before and after, put together from its examples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.contract.evaluation import LOSS, Difference, RowScore, ScoreSummary
from runner.contract.intervals import paired_interval
from runner.training.data.token_table import read_row_table
from runner.training.fit.heldout import HeldOut


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Each held-out row's summed loss before and after."""

    rows: tuple[int, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    tokens: tuple[int, ...]
    clusters: tuple[Hashable, ...]
    """What each row belongs to: its question or its file."""

    @property
    def changed(self) -> int:
        """How many rows have another loss than before."""
        return sum(b != a for b, a in zip(self.before, self.after, strict=True))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the change of the loss lies."""
        return paired_interval(self.before, self.after, self.tokens, self.clusters)

    def as_json(self) -> list[dict[str, Any]]:
        """Give one object for each row: its number among the data's rows, and losses per token."""
        columns = zip(self.rows, self.before, self.after, self.tokens, strict=True)
        return [
            {"row": row, "before": per_token(before, n), "after": per_token(after, n), "tokens": n}
            for row, before, after, n in columns
        ]

    def difference(self) -> Difference:
        """Give how much better the second is: above zero, its loss is lower."""
        total = sum(self.tokens)
        found, interval = math.fsum(self.before) - math.fsum(self.after), self.interval
        return Difference(
            difference=found / total if total else 0.0,
            low=-interval[1] if interval else None,
            high=-interval[0] if interval else None,
            rows=len(self.rows),
        )


def per_token(total: float, tokens: int) -> float | None:
    """Give a row's loss per learned token; None: it has none, or its loss is no number."""
    return round(total / tokens, 6) if tokens and math.isfinite(total) else None


def pair(
    rows: Sequence[int], before: HeldOut, after: HeldOut, clusters: Sequence[Hashable]
) -> Paired:
    """Put the examples of one row together: they are not independent of each other.

    Args:
        rows: the row of each example.
        before: the losses of the examples.
        after: the same examples' with the adapter.
        clusters: what each example's row belongs to.
    """
    belongs = dict(zip(rows, clusters, strict=True))
    sums: dict[int, list[float]] = {}
    counts: Counter[int] = Counter()
    examples = zip(rows, before.sums, after.sums, after.counts, strict=True)
    for row, lost_before, lost_after, tokens in examples:
        both = sums.setdefault(row, [0.0, 0.0])
        both[0] += lost_before
        both[1] += lost_after
        counts[row] += tokens
    return Paired(
        rows=tuple(sums),
        before=tuple(one[0] for one in sums.values()),
        after=tuple(one[1] for one in sums.values()),
        tokens=tuple(counts[row] for row in sums),
        clusters=tuple(belongs[row] for row in sums),
    )


def loss_summary(paired: Paired, current: Paired | None) -> ScoreSummary:
    """Sum the loss up as a score; ``current`` pairs the adapter in use with the new one."""
    total = sum(paired.tokens)
    found, against = paired.difference(), current.difference() if current else None
    return ScoreSummary(
        name=LOSS,
        base=_finite(math.fsum(paired.before), total),
        adapter=_finite(math.fsum(paired.after), total),
        current=_finite(math.fsum(current.before), sum(current.tokens)) if current else None,
        difference=found.difference if math.isfinite(found.difference) else None,
        low=found.low,
        high=found.high,
        rows=len(paired.rows),
        lower_is_better=True,
        is_share=False,
        against_current=against if against and math.isfinite(against.difference) else None,
    )


def _finite(total: float, tokens: int) -> float | None:
    return total / tokens if tokens and math.isfinite(total) else None


def loss_rows(
    paired: Paired, current: Paired | None, identities: dict[int, str]
) -> Iterator[RowScore]:
    """Give each row's loss per token, without a word of it."""
    of_current: dict[int, float | None] = {}
    if current:
        columns = zip(current.rows, current.before, current.tokens, strict=True)
        of_current = {row: per_token(total, tokens) for row, total, tokens in columns}
    for one in paired.as_json():
        if one["row"] in identities:
            yield RowScore(
                row=identities[one["row"]],
                score=LOSS,
                base=one["before"],
                adapter=one["after"],
                current=of_current.get(one["row"]),
            )


def identities_of(prepared: Path) -> dict[int, str]:
    """Give the hash of all that each row says; nothing of what an older runner prepared."""
    table = prepared / "rows.arrow"
    if not table.is_file():
        return {}
    rows = read_row_table(table)
    return {
        int(row): f"{int(content):016x}"
        for row, content in zip(rows.row, rows.content, strict=True)
    }
