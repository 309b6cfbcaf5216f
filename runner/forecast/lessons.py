"""Lessons: measured peaks and times of past runs correct later forecasts on this box.

Each attempt that ended leaves one line in ``outputs/.runner/forecasts.jsonl``: what was forecast
for the plan it ended with, and what it took; a run that fit at no plan in 16 bits leaves one for
each plan that it tried. No data, no names.
"""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from runner.files.durable import Kept, append_line

KEPT = 200  # lines read, the newest
_FILE = Kept(bytes=1024 * 1024, files=2)
"""Some 3,000 lessons and as many older ones; the file is read whole for each forecast."""
_COUNTED = 10  # lessons of a kind that count, the newest: drivers and libraries change
_FACTORS = (0.7, 1.5)  # a lesson beyond these says that something else was different


class Lesson(BaseModel):
    """One attempt, forecast and measured."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    """What `forecast.lesson_key` gives."""
    gpu: str
    fast: bool = False
    """Made on the fast path."""
    ranks: int = 1
    """Cards that it was trained on; the figures are those of the one that took most."""
    forecast_bytes: int
    """Uncorrected."""
    steady_bytes: int
    """Of it, weights and context: they are not corrected."""
    measured_bytes: int
    ran_out: bool = False
    """Memory ran out: ``measured_bytes`` is all that it could have."""
    context_bytes: int | None = None
    forecast_seconds: float | None = None
    """Of the steps that were made, uncorrected."""
    measured_seconds: float | None = None

    def is_as_large_as(self, other: Lesson) -> bool:
        """Whether no less was forecast for it than for another of its kind, in either part."""
        return (
            self.key == other.key
            and self.forecast_bytes >= other.forecast_bytes
            and self.steady_bytes >= other.steady_bytes
        )


def memory_factors(lessons: Sequence[Lesson], *, gpu: str, ranks: int = 1) -> dict[str, float]:
    """Give a correction for each kind of run that this card has seen: the median of what was off.

    It multiplies the part that can be wrong. A few lessons move it a part of the way only. Of runs
    on as many cards: what several take to speak with each other is no lesson for one.
    """
    lessons = [one for one in lessons if one.gpu == gpu and one.ranks == ranks]
    kinds = {lesson.key for lesson in lessons}
    found = {}
    for kind in kinds:
        ratios = [
            (one.measured_bytes - one.steady_bytes) / (one.forecast_bytes - one.steady_bytes)
            for one in lessons
            if one.key == kind and one.forecast_bytes > one.steady_bytes
            if not one.ran_out  # it says that more was needed, and not how much
        ][-_COUNTED:]
        if ratios:
            found[kind] = _careful(ratios)
    return found


def time_factor(lessons: Sequence[Lesson], *, gpu: str, fast: bool, ranks: int = 1) -> float:
    """Give a correction of the time that steps take on this card, on the fast or the plain path."""
    ratios = [
        one.measured_seconds / one.forecast_seconds
        for one in lessons
        if one.gpu == gpu and one.measured_seconds and one.forecast_seconds
        if one.fast is fast and one.ranks == ranks
    ][-_COUNTED:]
    return statistics.median(ratios) if ratios else 1.0


def context_of(lessons: Sequence[Lesson], *, gpu: str, ranks: int = 1) -> int | None:
    """Give what CUDA itself took on this card the last time, and the talk among several ranks."""
    here = (one for one in lessons if one.gpu == gpu and one.ranks == ranks)
    known = [one.context_bytes for one in here if one.context_bytes]
    return known[-1] if known else None


def too_large(lessons: Sequence[Lesson], *, gpu: str, ranks: int = 1) -> tuple[Lesson, ...]:
    """List the plans that ran out of this card's memory, unless a larger one fit since then."""
    here = [one for one in lessons if one.gpu == gpu and one.ranks == ranks]
    return tuple(
        one
        for at, one in enumerate(here)
        if one.ran_out
        and not any(later.is_as_large_as(one) for later in here[at:] if not later.ran_out)
    )


def _careful(ratios: Sequence[float]) -> float:
    low, high = _FACTORS
    middle = min(high, max(low, statistics.median(ratios)))
    weight = len(ratios) / (len(ratios) + 1)  # one lesson counts half, three count three quarters
    return 1 + weight * (middle - 1)


def read_lessons(path: Path) -> list[Lesson]:
    """Read what was learned; lines that cannot be read are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[-KEPT:]
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in lines:
        try:
            found.append(Lesson.model_validate(json.loads(line)))
        except (ValueError, ValidationError):
            continue
    return found


def add_lesson(path: Path, lesson: Lesson) -> None:
    """Note one; a line lost with the machine or on a full disk teaches nothing: nothing waits."""
    with contextlib.suppress(OSError):
        append_line(path, lesson.model_dump_json().encode() + b"\n", kept=_FILE)
