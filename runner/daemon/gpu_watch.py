"""GPU watch: the card's memory as the driver showed it last.

The driver is asked in a thread: under load it takes seconds (5.4 s were seen), and one that hangs
takes all the time it is given. Whoever needs a newer answer than there is waits for a later round.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from runner.card.memory import GpuMemory, read_gpu
from runner.daemon.ask_aside import Aside, NotYet

FRESH_SECONDS = 5.0  # while a run waits for memory, the driver is asked so often
NONE_SECONDS = 60.0  # a box without a card may get one, but not soon
WHENEVER = -math.inf
"""For who asks what card it is: that does not change."""


class StillAsking(NotYet):
    """The driver is being asked."""


class GpuWatch:
    """The newest answer of the driver, asked for again when it is old."""

    def __init__(
        self,
        device: str,
        *,
        done: Callable[[], object] = lambda: None,
        ask: Callable[[], GpuMemory | None] = read_gpu,
    ) -> None:
        """Begin with no answer; a box that is told to leave its card alone never asks.

        Args:
            device: ``cpu`` on a box that leaves its card alone.
            done: called from another thread when the driver has answered.
            ask: how the driver is asked.
        """
        self._wanted = device != "cpu"
        self._aside: Aside[GpuMemory | None] = Aside(ask, done=done)
        self._answer: GpuMemory | None = None
        self._asked_at = self._taken_at = WHENEVER

    def ask_if_old(self, at: float) -> None:
        """Ask the driver now if its answer will be too old for a start."""
        if self._wanted and self._is_old(at):
            self._aside.ask(at)

    def memory_at(self, at: float, *, since: float | None = None) -> GpuMemory | None:
        """Give the card as it was a few seconds ago, or at ``since`` or later; None: there is none.

        Args:
            at: monotonic time.
            since: monotonic time; an answer that was asked for before it will not do.

        Raises:
            StillAsking: there is no such answer yet; it is asked for from now on.
        """
        if not self._wanted:
            return None
        self._take(at)
        if not self._will_do(at, since):
            self._aside.ask(at)
            raise StillAsking
        return self._answer

    def _will_do(self, at: float, since: float | None) -> bool:
        if self._taken_at == WHENEVER:
            return False
        if since is None or self._answer is None:
            return not self._is_old(at)
        return self._asked_at >= since

    def _is_old(self, at: float) -> bool:
        return at - self._taken_at >= (FRESH_SECONDS if self._answer else NONE_SECONDS)

    def _take(self, at: float) -> None:
        answered = self._aside.take()
        if answered is not None:
            self._answer, self._asked_at = answered.value, answered.asked_at
            self._taken_at = at  # not when it was asked: a slow driver would always be too old
