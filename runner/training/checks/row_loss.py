"""Loss per row: which answers the base model gives already, and which it finds next to impossible.

Measured on a sample of the learned rows, with the base as it was before training. A wrong label or
an answer that slipped into the next line stands out: the model expects something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from runner.contract.findings import EXAMPLES, DataFinding, Place
from runner.training.checks.say import Values, finding, robust_z
from runner.training.checks.thresholds import (
    KNOWN_LOSS,
    KNOWN_SHARE,
    SURPRISING_LOSS,
    SURPRISING_Z,
)

_ROWS_FOR_SPREAD = 20  # fewer show no spread that could be trusted
_CANDIDATES = 4  # for each row that is chosen: some are too long
NAMES = ("known_answers", "surprising_answers", "hardest_answers")


@dataclass(frozen=True, kw_only=True)
class RowLoss:
    """What the base model's loss on one row is."""

    place: Place
    loss: float
    """Nats per learned token."""
    row: int | None = None
    """Its place in the data, counted over all files from 0."""


def choose(rows: np.ndarray, tokens: np.ndarray, *, most_rows: int, most_tokens: int) -> np.ndarray:
    """Choose rows to measure: the same ones each time, spread evenly, within a number of tokens.

    Args:
        rows: numbers of the learned rows.
        tokens: those of each.
        most_rows: how many at most.
        most_tokens: what all of them may have together.

    Returns:
        Their places in ``rows``, in the order of a hash: whoever measures only the first of them
        has measured rows from everywhere.
    """
    places = np.arange(len(rows))
    if len(rows) > _CANDIDATES * most_rows:  # a hash of each of millions would take seconds
        places = np.linspace(0, len(rows) - 1, _CANDIDATES * most_rows).astype(np.int64)
    chosen: list[int] = []
    left = most_tokens
    for place in sorted(places.tolist(), key=lambda place: _hash(int(rows[place]))):
        if len(chosen) < most_rows and tokens[place] <= left:
            chosen.append(place)
            left -= int(tokens[place])
    return np.array(chosen, dtype=np.int64)


def _hash(number: int) -> bytes:
    return blake2b(number.to_bytes(8, "big"), digest_size=8).digest()


def judge(
    measured: Sequence[RowLoss], wishes: Mapping[str, str], *, learned: int
) -> list[DataFinding]:
    """Say what the losses mean; ``learned`` rows there are in all."""
    usable = [one for one in measured if np.isfinite(one.loss)]
    if not usable:
        return []
    by_loss = sorted(usable, key=lambda one: (one.loss, one.place.file, one.place.line or 0))
    losses = np.array([one.loss for one in by_loss])
    known = by_loss[: int((losses < KNOWN_LOSS.value).sum())]
    surprising: list[RowLoss] = []
    if len(losses) >= _ROWS_FOR_SPREAD:
        far = (robust_z(losses) > SURPRISING_Z.value) & (losses > SURPRISING_LOSS.value)
        surprising = [one for one, is_far in zip(by_loss, far, strict=True) if is_far][::-1]
    values: Values = {
        "learned": learned,
        "median": round(float(np.median(losses)), 2),
        "lowest": round(float(losses[0]), 2),
        "highest": round(float(losses[-1]), 2),
    }
    found = {
        "known_answers": (known, len(known) < KNOWN_SHARE.value * len(usable)),
        "surprising_answers": (surprising, False),
        "hardest_answers": (by_loss[::-1], False),
    }
    return [
        finding(
            name,
            count=len(rows),
            of=len(usable),
            places=tuple(one.place for one in rows[:EXAMPLES]),
            values=values,
            small=small,
            wish=wishes.get(name),
        )
        for name, (rows, small) in found.items()
        if rows and wishes.get(name) != "ignore"
    ]
