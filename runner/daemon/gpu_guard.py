"""GPU lost: holds the queue while the GPU is away, and ends the daemon so that it comes back.

A GPU goes away under a running container: after an update of the driver, or when the host's systemd
reloads and takes the right to the devices back. Every job would fail, or compute on the CPU for
days. So the queue is held, `runner health` says unwell, and after five minutes the daemon ends:
Docker starts the container anew, which gives it the devices back. A driver that waits for a reboot
would refuse that new container, so then the daemon stays and says so.

The driver is asked in a thread (daemon/ask_aside.py): one that hangs does not hold the loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from runner.card.answer import Answer, Card, Gpu, Verdict, meaning
from runner.card.ask import ask_driver, expects_gpu, signs_of_a_card
from runner.daemon.ask_aside import Aside
from runner.daemon.gpu_watch import StillAsking

_IDLE_SECONDS = 60.0
_LOST_SECONDS = 15.0  # how soon is seen that it is back
_FRESH_SECONDS = 10.0  # no older answer lets a stage start on the card
TRY_AGAIN_SECONDS = 300.0
"""So long after a stage lost a card that the driver calls well, another is tried there: as long as
a box with one card waits by default before it is started anew."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the daemon does about its GPU."""

    problem: str = ""
    """Why nothing starts; empty: what waits may start."""
    must_end: bool = False
    """Only a new container can bring the GPU back."""


def decide(
    verdict: Verdict, *, stage_said: str, lost_seconds: float, patience_seconds: float
) -> Standing:
    """Decide what follows from the driver's state and from what the last stage said of it.

    Args:
        verdict: what the driver's newest answer means.
        stage_said: how a stage lost the GPU, where the driver has not explained it; or empty.
        lost_seconds: for how long it has been lost.
        patience_seconds: after so long the daemon ends.
    """
    over = lost_seconds >= patience_seconds
    if verdict.gpu is Gpu.REBOOT:  # a new container would be refused: stay, and say so
        return Standing(problem=f"{verdict.message} ({verdict.fix})")
    if verdict.gpu is Gpu.LOST:
        return Standing(problem=f"{verdict.message}; to fix it: {verdict.fix}", must_end=over)
    return Standing(problem=stage_said, must_end=over) if stage_said else Standing()


class GpuGuard:
    """Knows how the GPU is, and asks again in time."""

    def __init__(
        self,
        *,
        device: str,
        patience_seconds: float,
        say: Callable[..., None],
        done: Callable[[], object] = lambda: None,
        lost: Callable[[], object] = lambda: None,
        ask: Callable[[], Answer | None] = ask_driver,
        expected: bool = False,
    ) -> None:
        """Begin with no answer.

        Args:
            device: ``cpu`` on a box that leaves its card alone.
            patience_seconds: so long after its loss the daemon ends.
            say: the daemon's log.
            done: called from another thread when the driver has answered.
            lost: called when the card is seen to be away, each time.
            ask: how the driver is asked.
            expected: the setting names this card: it is there, or it is lost.
        """
        self._wanted = device != "cpu"
        self._patience_seconds = patience_seconds
        self._say, self._lost = say, lost
        self._aside: Aside[Answer | None] = Aside(ask, done=done)
        self._signs = expected or signs_of_a_card(os.environ)
        self._expected = expected or expects_gpu(os.environ)
        self._verdict: Verdict | None = None
        self._heard_at: float | None = None
        """When it was last answered, or there was no process to be had to ask it."""
        self._lost_since: float | None = None
        self._stage_said = ""
        self._explained = False
        """The driver was seen lost after the stage said so: when it is back, that is over."""
        self.standing = Standing()
        self.card: Card | None = None
        """The card, as the driver last described it."""

    @property
    def is_well(self) -> bool:
        """Whether there is a card and the driver answers for it."""
        return self._verdict is not None and self._verdict.gpu is Gpu.WELL

    @property
    def may_be_there(self) -> bool:
        """Whether there is a card, well or lost, or it is not known yet that there is none."""
        is_none = self._verdict is not None and self._verdict.gpu is Gpu.NONE
        return self._wanted and self._signs and not is_none

    def take(self, answer: Answer, at: float) -> None:
        """Take an answer that somebody else heard just now."""
        self._heard_at = at
        self._verdict = meaning(answer, expected=self._expected)
        self.card = answer.cards[0] if answer.cards else self.card
        if self._verdict.gpu is not Gpu.NONE:
            self._expected = True
        if self._verdict.gpu in (Gpu.LOST, Gpu.REBOOT):
            self._explained = True
        elif self._explained:
            self._stage_said, self._explained = "", False
        self._judge(at)

    def stage_lost_it(self, message: str, at: float) -> None:
        """Take note that a stage ended because its GPU went away."""
        self._stage_said, self._explained = message, False
        self._lost_since = at if self._lost_since is None else self._lost_since
        self._judge(at)

    def ask_anew(self) -> None:
        """Let nothing start on the card before the driver has told how it is."""
        self._heard_at = None

    def try_again(self, at: float) -> None:
        """Let another stage try a card that one lost and the driver calls well all the time."""
        lost_since = at if self._lost_since is None else self._lost_since
        if self._stage_said and self.is_well and at - lost_since >= TRY_AGAIN_SECONDS:
            self._stage_said = ""
            self._judge(at)

    def standing_at(self, at: float) -> Standing:
        """Decide by what is known at a monotonic time; the driver is asked if it is time to."""
        answered = self._aside.take()
        if answered is not None:
            self._heard_at = at
            if answered.value is not None:
                self.take(answered.value, at)
        if self._is_time(at, about_to_start=False):
            self._aside.ask(at)
        self._judge(at)
        return self.standing

    def standing_to_start(self, at: float, *, on_card: bool) -> Standing:
        """Decide whether a stage may start now.

        Args:
            at: monotonic time.
            on_card: it needs the card: an old answer will not do.

        Raises:
            StillAsking: the driver has not answered yet.
        """
        standing = self.standing_at(at)
        if self._is_time(at, about_to_start=on_card):
            self._aside.ask(at)
            if on_card or self._heard_at is None:
                raise StillAsking
        return standing

    def _is_time(self, at: float, *, about_to_start: bool) -> bool:
        if not self._wanted or not self._signs:
            return False
        if self._heard_at is None:
            return True
        if self._verdict is not None and self._verdict.gpu is Gpu.NONE:
            return False  # cards do not come while a machine runs
        wait = _LOST_SECONDS if self.standing.problem else _IDLE_SECONDS
        return at - self._heard_at >= (min(wait, _FRESH_SECONDS) if about_to_start else wait)

    def _judge(self, at: float) -> None:
        verdict = self._verdict or Verdict(gpu=Gpu.NONE)
        if verdict.gpu not in (Gpu.LOST, Gpu.REBOOT) and not self._stage_said:
            self._lost_since = None
        elif self._lost_since is None:
            self._lost_since = at
        before = self.standing
        self.standing = decide(
            verdict,
            stage_said=self._stage_said,
            lost_seconds=0.0 if self._lost_since is None else at - self._lost_since,
            patience_seconds=self._patience_seconds,
        )
        if self.standing.problem != before.problem:
            self._say(self.standing.problem or "the GPU is back", level="warning")
        if self.standing.problem and not before.problem:
            self._lost()
