"""Intervals: where the difference of two models on the same rows lies, with 95% confidence.

Rows of one question or one source file are not independent of each other: each of them would pass
for evidence of its own. So the error follows from whole clusters. A bootstrap was tried before: of
8 to 20 clusters its intervals held the truth in 67 to 93 of 100 draws (docs/measurements.md).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

from runner.contract.evaluation import Difference

CONFIDENCE = 0.95
FEWEST_CLUSTERS = 6
"""Of fewer, not even the same sign in all would be beyond chance: 2 × 0.5⁵ is 6%, 2 × 0.5⁶ 3%."""


def paired_interval(
    before: Sequence[float],
    after: Sequence[float],
    tokens: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
) -> tuple[float, float] | None:
    """Give where the change of a token-weighted loss lies, at 95%, paired over rows.

    The loss is a ratio of sums (nats over tokens), so the change is one too, and its error follows
    from the residuals (the ratio estimator of survey sampling: Cochran, Sampling Techniques, 1977,
    section 6.3), with Student's t. Each residual is as large as if the ratio were that of all other
    clusters: the jackknife, which few clusters of unequal size need (CV3 in MacKinnon, Nielsen and
    Webb, J. Econometrics 232, 2023, section 2.2). It does not count in that the best of several
    checkpoints was chosen on the same rows.

    Args:
        before: each row's summed loss without the adapter.
        after: each row's summed loss with it.
        tokens: each row's learned tokens.
        clusters: what each row belongs to; None: each to itself.

    Returns:
        The interval; None: there are fewer than two clusters, or a loss is not a number.
    """
    if not all(map(math.isfinite, [*before, *after])):
        return None
    changes = [b - a for a, b in zip(before, after, strict=True)]
    return _interval(_by_cluster(changes, tokens, clusters or range(len(changes))))


def paired_difference(
    before: Sequence[float], after: Sequence[float], clusters: Sequence[Hashable]
) -> Difference:
    """Give the mean of after less before, and where it lies at 95%, for scores between 0 and 1.

    Where nearly all rows say the same, as few rows do, their spread alone promises too much: of
    eight rows that all got better the interval would be a point. So two clusters more are counted
    in, one as much better and one as much worse as any: the adjusted interval of Bonett and Price
    (J. Educational and Behavioral Statistics 37, 2012), which Fagerland, Lydersen and Laake
    (Statistics in Medicine 33, 2014) recommend for shares in pairs. 40 rows still show 24 points.

    Args:
        before: one score of each row.
        after: the other one of the same rows.
        clusters: what each row belongs to.
    """
    changes = [b - a for a, b in zip(before, after, strict=True)]
    if not changes:
        return Difference(difference=0.0)
    mean, rows = math.fsum(changes) / len(changes), len(changes)
    found = _by_cluster(changes, [1.0] * rows, clusters)
    if len(found) < FEWEST_CLUSTERS:
        return Difference(difference=mean, rows=rows)
    size = rows / len(found)
    most = max(abs(change) / count for change, count in found)
    if not most and {*before, *after} <= {0.0, 1.0}:  # each row has it or has it not: it could turn
        most = 1.0
    interval = _interval([*found, (most * size, size), (-most * size, size)])
    if interval is None:
        return Difference(difference=mean, rows=rows)
    # Of scores between 0 and 1 no difference is larger.
    low, high = max(-1.0, interval[0]), min(1.0, interval[1])
    return Difference(difference=mean, low=low, high=high, rows=rows)


def _by_cluster(
    changes: Sequence[float], weights: Sequence[float], clusters: Sequence[Hashable]
) -> list[tuple[float, float]]:
    """Sum changes and weights up for each cluster that weighs anything."""
    sums: dict[Hashable, tuple[float, float]] = {}
    for cluster, change, weight in zip(clusters, changes, weights, strict=True):
        before = sums.get(cluster, (0.0, 0.0))
        sums[cluster] = before[0] + change, before[1] + weight
    return [one for one in sums.values() if one[1]]


def _interval(clusters: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    count, total = len(clusters), math.fsum(weight for _, weight in clusters)
    if count < 2:
        return None
    ratio = math.fsum(change for change, _ in clusters) / total
    without_it = ((c - ratio * w) / (total - w) for c, w in clusters)
    error = math.sqrt((count - 1) / count * math.fsum(one**2 for one in without_it))
    half = _students_t(count - 1) * error
    return ratio - half, ratio + half


def _students_t(freedom: int) -> float:
    """Give Student's t for a two-sided 95%: exact for 1 and 2, else Cornish and Fisher's series.

    (Abramowitz and Stegun, 26.7.5; off by less than 0.5% from 3 degrees of freedom on.)
    """
    p = (1 + CONFIDENCE) / 2
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    z = NormalDist().inv_cdf(p)
    series = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(series, start=1))
