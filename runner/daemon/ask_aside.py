"""Ask aside: a question that may take long is asked in a thread; the daemon's loop never waits.

The loop asks, goes on, and looks for the answer in its later rounds; the thread wakes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

_T = TypeVar("_T")


class NotYet(Exception):  # noqa: N818 - nothing is wrong: it is not known yet
    """Something is being found out in a thread; whoever needs it asks again in a later round."""


@dataclass(frozen=True, kw_only=True)
class Answered(Generic[_T]):
    """What came back."""

    value: _T
    asked_at: float
    """The loop's time at which it was asked, monotonic."""


class Aside(Generic[_T]):
    """One question, asked in a thread of its own, once at a time."""

    def __init__(self, ask: Callable[[], _T], *, done: Callable[[], object]) -> None:
        """Take the question, which must not raise, and what is called when it is answered."""
        self._ask, self._done = ask, done
        self._answered: Answered[_T] | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_asking(self) -> bool:
        """Whether an answer is still to come or to be taken."""
        return self._thread is not None

    def ask(self, at: float) -> None:
        """Ask, unless it is being asked already."""
        if self._thread is not None:
            return
        # A daemon thread: a driver that never answers must not keep the process from ending.
        self._thread = threading.Thread(
            target=self._work, args=(at,), name="asks aside", daemon=True
        )
        self._thread.start()

    def take(self) -> Answered[_T] | None:
        """Give the answer once; None: there is none yet."""
        answered, self._answered = self._answered, None
        if answered is not None:
            self._thread = None
        return answered

    def _work(self, at: float) -> None:
        self._answered = Answered(value=self._ask(), asked_at=at)
        self._done()
