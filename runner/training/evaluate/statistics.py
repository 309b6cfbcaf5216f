"""Paired differences over rows, with where each lies: a bootstrap that keeps clusters together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from runner.contract.evaluation import Difference
from runner.contract.verdict import CONFIDENCE

_RESAMPLES = 4000
"""Draws: the ends of a 95% interval then lie within about 2% of its width of where endless draws
would put them (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 19)."""
FEWEST_CLUSTERS = 6
"""Of fewer, not even the same sign in all would be beyond chance: 2 × 0.5⁵ is 6%, 2 × 0.5⁶ 3%."""
_FILES = 20  # of held-out rows: so many make clusters of their own


def paired_difference(
    before: Sequence[float], after: Sequence[float], clusters: Sequence[Hashable], *, seed: int
) -> Difference:
    """Give the mean of after less before, and where it lies at 95%.

    Whole clusters are drawn with replacement: rows of one question or one source file are not
    independent of each other, and each would pass for evidence of its own.

    Args:
        before: one score of each row.
        after: the other one of the same rows.
        clusters: what each row belongs to.
        seed: of the draws.
    """
    changes = np.asarray(after, float) - np.asarray(before, float)
    if not len(changes):
        return Difference(difference=0.0)
    mean = float(changes.mean())
    _, member = np.unique([hash(one) for one in clusters], return_inverse=True)
    sums = np.bincount(member, weights=changes)
    counts = np.bincount(member)
    if len(sums) < FEWEST_CLUSTERS:
        return Difference(difference=mean, rows=len(changes))
    draws = np.random.default_rng(seed).integers(len(sums), size=(_RESAMPLES, len(sums)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Difference(difference=mean, low=float(low), high=float(high), rows=len(changes))


def clusters_of(questions: Sequence[Hashable], files: Sequence[Hashable]) -> Sequence[Hashable]:
    """Choose what belongs together: the rows of a file where there are many files, else a question.

    A folder of one file a contract gives rows that share the contract; one large file says nothing.
    """
    return files if len(set(files)) >= _FILES else questions
