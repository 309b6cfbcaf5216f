"""Rounds of the loop: how long the longest took, and which of its steps took most of that.

What a round waits for a disk to write its records, or for the share to answer, cannot be saved and
is counted apart: the limit is on the loop's own time.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

from runner.clock import now
from runner.files.waits import waited_seconds

LIMIT_SECONDS = 0.2
"""No round is to take longer of its own: a child's end, a request and a new spec wait that long at
most, and for the disk."""
_LOGGED_AGAIN_FROM = 2.0  # times the longest one that was logged: a slow share fills no log


@dataclass(frozen=True, kw_only=True)
class LongRound:
    """The longest round so far, by the loop's own time."""

    seconds: float
    """The loop's own: all of it but the waiting."""
    waited_seconds: float
    """For a disk to write, or for the share to answer."""
    step: str
    """The step that took most of its own time."""
    step_seconds: float
    at: str
    """When, in UTC."""


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """The beginning of a step, or the end of a round."""

    name: str
    at: float
    waited: float

    def until(self, later: _Mark) -> tuple[float, str]:
        """Give the own time of the step that begins here, and its name."""
        return later.at - self.at - self.waited_until(later), self.name

    def waited_until(self, later: _Mark) -> float:
        """Give the time waited in it."""
        return later.waited - self.waited


class Rounds:
    """Measures rounds; the time in which the loop waits for something to do is no part of one."""

    def __init__(
        self,
        say: Callable[..., None],
        *,
        clock: Callable[[], float] = time.monotonic,
        waited: Callable[[], float] = waited_seconds,
    ) -> None:
        """Begin with no round.

        Args:
            say: logs a round that takes longer than it should.
            clock: monotonic.
            waited: tells how long was waited so far for disks and the share.
        """
        self._say, self._clock, self._waited = say, clock, waited
        self._marks: list[_Mark] = []
        self._logged_seconds = LIMIT_SECONDS / _LOGGED_AGAIN_FROM
        self.longest: LongRound | None = None

    def step(self, name: str) -> None:
        """Begin a step; the first one begins the round."""
        self._marks.append(_Mark(name=name, at=self._clock(), waited=self._waited()))

    def end(self) -> None:
        """End the round."""
        self.step("")
        marks, self._marks = self._marks, []
        whole, waited = marks[-1].at - marks[0].at, marks[0].waited_until(marks[-1])
        step_seconds, step = max(
            (one.until(after) for one, after in itertools.pairwise(marks)), default=(0.0, "")
        )
        if self.longest is None or whole - waited > self.longest.seconds:
            self.longest = LongRound(
                seconds=round(whole - waited, 3),
                waited_seconds=round(waited, 3),
                step=step,
                step_seconds=round(step_seconds, 3),
                at=now().isoformat(timespec="seconds"),
            )
        if whole > max(LIMIT_SECONDS, _LOGGED_AGAIN_FROM * self._logged_seconds):
            self._logged_seconds = whole
            for_disk = f"{waited:.1f} s of it waiting for the disk or the share"
            self._say(
                f"a round of the loop took {whole:.1f} s, {for_disk}, most of its own time: {step}",
                level="warning",
                step_seconds=round(step_seconds, 3),
            )
