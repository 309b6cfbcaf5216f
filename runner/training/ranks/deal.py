"""Deal rows to ranks, so that each has about as many tokens to go through."""

from __future__ import annotations

from collections.abc import Sequence


def deal(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Deal rows: the longest first, each to the rank that has the fewest tokens so far.

    Args:
        lengths: each row's tokens.
        ranks: how many share them.

    Returns:
        Each rank's row numbers, in the order given. The same on every rank; some may have none.
    """
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    tokens = [0] * ranks
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        least = min(range(ranks), key=tokens.__getitem__)
        dealt[least].append(row)
        tokens[least] += lengths[row]
    return [sorted(rows) for rows in dealt]
