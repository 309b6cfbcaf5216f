"""Curve: a run's metrics.jsonl files as one curve: each step that counts, once, thinned to fit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from runner.contract.layout import RunFolder, StageFolder
from runner.contract.record import Attempt, RunRecord
from runner.files.plain import open_plain

POINTS = 200  # in a chart of 440 px more cannot be told apart; the table beside it stays readable
_LINE_BYTES = 64 * 1024  # a step's line has some 300 bytes, and 8 for each row of its batch
_LINES = 2_000_000  # of one attempt: a run of a month has fewer

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Series:
    """One measured thing over the steps."""

    name: str
    """Its key in the table of texts, without ``series_``."""
    points: tuple[tuple[int, float], ...]
    """Step and value, as measured."""
    count: int
    """How many points there are; `points` may be fewer."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What was measured during training."""

    series: dict[str, Series] = field(default_factory=dict)
    """``train``, ``eval``, ``rate``, ``memory``, ``speed``: those with at least one point."""


_WANTED = {
    "loss": "train",
    "eval_loss": "eval",
    "learning_rate": "rate",
    "gpu_memory_bytes": "memory",
    "tokens_per_second": "speed",
}


def read_curve(run: RunFolder, record: RunRecord) -> Curve:
    """Read what counts of every attempt; lines that are torn or not ours are passed over."""
    found: dict[str, dict[int, float]] = {name: {} for name in _WANTED.values()}
    for attempt in record.attempts:
        for line in _lines(StageFolder(run.attempt(attempt.number, attempt.token)).metrics):
            step = line.get("step")
            if not isinstance(step, int) or not counts(
                step, attempt, is_evaluation="eval_loss" in line
            ):
                continue
            for key, name in _WANTED.items():
                value = line.get(key)
                if isinstance(value, int | float) and math.isfinite(value):
                    found[name][step] = value
    return Curve(
        series={
            name: Series(name=name, points=thinned(sorted(of_step.items())), count=len(of_step))
            for name, of_step in found.items()
            if of_step
        }
    )


def counts(step: int, attempt: Attempt, *, is_evaluation: bool) -> bool:
    """Whether a step is one that this attempt counts for; see the record's ``last_step``.

    A held-out loss that was owed when the attempt began belongs to the step before its first.
    """
    first = (attempt.first_step or 1) - is_evaluation
    last = math.inf if attempt.ended_at is None else (attempt.last_step or 0)
    return first <= step <= last


def _lines(path: Any) -> Iterator[dict[str, Any]]:
    try:
        with open(open_plain(path), "rb") as file:
            for _ in range(_LINES):
                line = file.readline(_LINE_BYTES)
                if not line:
                    return
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    continue  # torn by a power cut, or a part of a line far too long
                if isinstance(value, dict):
                    yield value
    except OSError:
        return


def thinned(points: Sequence[T], most: int = POINTS) -> tuple[T, ...]:
    """Keep at most so many points, evenly, the first and the last among them."""
    if len(points) <= most:
        return tuple(points)
    last = len(points) - 1
    return tuple(points[round(index * last / (most - 1))] for index in range(most))
