"""Rounds of the loop: how long the longest took, and which of its steps took most of that."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

from runner.clock import now

LIMIT_SECONDS = 0.2
"""No round is to take longer: a child's end, a request and a new spec wait that long at most."""
_LOGGED_AGAIN_FROM = 2.0  # times the longest one that was logged: a slow share fills no log


@dataclass(frozen=True, kw_only=True)
class LongRound:
    """The longest round so far."""

    seconds: float
    step: str
    """The step that took most of it."""
    step_seconds: float
    at: str
    """When, in UTC."""


class Rounds:
    """Measures rounds; the time in which the loop waits is no part of one."""

    def __init__(
        self, say: Callable[..., None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``say`` logs a round that takes longer than it should."""
        self._say, self._clock = say, clock
        self._marks: list[tuple[str, float]] = []
        self._logged_seconds = LIMIT_SECONDS / _LOGGED_AGAIN_FROM
        self.longest: LongRound | None = None

    def step(self, name: str) -> None:
        """Begin a step; the first one begins the round."""
        self._marks.append((name, self._clock()))

    def end(self) -> None:
        """End the round."""
        marks, self._marks = [*self._marks, ("", self._clock())], []
        seconds = marks[-1][1] - marks[0][1]
        if self.longest is not None and seconds <= self.longest.seconds:
            return
        took = [(after[1] - one[1], one[0]) for one, after in itertools.pairwise(marks)]
        step_seconds, step = max(took, default=(0.0, ""))
        self.longest = LongRound(
            seconds=round(seconds, 3),
            step=step,
            step_seconds=round(step_seconds, 3),
            at=now().isoformat(timespec="seconds"),
        )
        if seconds > max(LIMIT_SECONDS, _LOGGED_AGAIN_FROM * self._logged_seconds):
            self._logged_seconds = seconds
            self._say(
                f"a round of the loop took {seconds:.1f} s, most of it: {step}",
                level="warning",
                step_seconds=round(step_seconds, 3),
            )
