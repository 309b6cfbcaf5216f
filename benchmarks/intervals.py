"""Intervals of scores: how often they hold the truth, beside a bootstrap and Student's t.

Command: `python benchmarks/intervals.py [DRAWS]`. Data is drawn whose true difference is known:
rows in clusters of 1 or of 1 to 20, half of the clusters with rows that turn alike.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from runner.contract.intervals import paired_difference, paired_interval

Interval = tuple[float, float]
RESAMPLES = 1000


def ours(changes: list[float], member: list[int]) -> Interval:
    """Give the product's interval of a score."""
    found = paired_difference([0.0] * len(changes), changes, member)
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def students(changes: list[float], member: list[int]) -> Interval:
    """Give what the product does for a loss: Student's t over clusters, nothing counted in."""
    found = paired_interval([0.0] * len(changes), changes, [1.0] * len(changes), member)
    assert found is not None
    return found


def bootstrap(changes: list[float], member: list[int]) -> Interval:
    """Draw whole clusters with replacement, and cut 2.5% off at each end (percentiles)."""
    dice = np.random.default_rng(len(changes))
    sums, counts = np.bincount(member, weights=changes), np.bincount(member)
    drawn = dice.integers(len(sums), size=(RESAMPLES, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    return float(low), float(high)


METHODS: dict[str, Callable[[list[float], list[int]], Interval]] = {
    "bootstrap": bootstrap,
    "Student's t": students,
    "ours": ours,
}


def draw(
    dice: np.random.Generator, clusters: int, *, up: float, down: float, fields: int, alone: bool
) -> tuple[list[float], list[int]]:
    """Draw rows that got better, worse or neither in each of some fields; their mean counts."""
    changes: list[float] = []
    member: list[int] = []
    for cluster in range(clusters):
        rows = 1 if alone else min(int(dice.geometric(0.25)), 20)
        alike = dice.random() < 0.5
        lots = np.full((rows, fields), dice.random()) if alike else dice.random((rows, fields))
        turned = np.where(lots < up, 1.0, np.where(lots < up + down, -1.0, 0.0))
        changes += turned.mean(axis=1).tolist()
        member += [cluster] * rows
    return changes, member


def main() -> None:
    """Print a line for each kind of data and number of clusters."""
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    cases = [(0.15, 0.15, 1), (0.27, 0.03, 1), (0.11, 0.01, 1), (0.88, 0.03, 1), (0.2, 0.2, 5)]
    print("better worse fields rows     clusters | " + " | ".join(METHODS))
    for up, down, fields in cases:
        for alone in (True, False):
            for clusters in (8, 12, 20, 40, 100):
                dice = np.random.default_rng(clusters)
                held, above = dict.fromkeys(METHODS, 0), dict.fromkeys(METHODS, 0)
                for _ in range(draws):
                    rows = draw(dice, clusters, up=up, down=down, fields=fields, alone=alone)
                    for name, method in METHODS.items():
                        low, high = method(*rows)
                        held[name] += low - 1e-9 <= up - down <= high + 1e-9
                        above[name] += low > up - down + 1e-9
                said = [f"{held[n] / draws:.1%} ({above[n] / draws:.1%})" for n in METHODS]
                kind = "alone" if alone else "1 to 20"
                print(f"{up:6} {down:5} {fields:6} {kind:8} {clusters:8} | {' | '.join(said)}")


if __name__ == "__main__":
    main()
