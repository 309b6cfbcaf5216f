"""Patient calls: a file system that may never answer is waited for only so long.

A share whose server is gone (NFS by default, SMB and FUSE in some ways of mounting) holds whoever
asks it for anything, and no signal but SIGKILL frees him. So one thread asks, and the loop waits
for it only so long: all that is decided stays in the loop's own thread.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from runner.errors import UnansweredError
from runner.files.waits import add_wait

_T = TypeVar("_T")


class _Call:
    """A call, and what came of it."""

    def __init__(self, call: Callable[[], Any], undo: Callable[[Any], object] | None) -> None:
        self._call, self._undo = call, undo
        self._end = threading.Lock()
        self._left = False
        self.over = threading.Event()
        self.answer: Any = None
        self.worked_seconds = 0.0
        """What the call itself took of a processor; the rest of its time it waited."""
        self.error: BaseException | None = None

    def make(self) -> None:
        """Make it, and undo it where nobody waits for it any more."""
        began = time.thread_time()
        try:
            self.answer = self._call()
        except BaseException as error:  # whoever asked gets it
            self.error = error
        self.worked_seconds = time.thread_time() - began
        with self._end:
            left = self._left
            self.over.set()
        if left and self.error is None and self._undo is not None:
            self._undo(self.answer)

    def leave(self) -> bool:
        """Wait no more; False: it is over after all."""
        with self._end:
            self._left = not self.over.is_set()
            return self._left


class PatientCalls:
    """Makes calls in a thread of their own, one at a time."""

    def __init__(self, seconds: float) -> None:
        """Take how long to wait for each call."""
        self._seconds = seconds
        self._calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._stuck: _Call | None = None
        self._thread: threading.Thread | None = None

    def __call__(self, call: Callable[[], _T], *, undo: Callable[[_T], object] | None = None) -> _T:
        """Make a call; ``undo`` is for what one gives that comes back when nobody waits for it.

        Raises:
            UnansweredError: it takes too long, or an earlier one still does; then nothing was
                asked. What was asked may yet happen.
        """
        if self._stuck is not None and not self._stuck.over.is_set():
            raise self._unanswered()
        self._stuck = None
        if self._thread is None:
            # A daemon thread: one that never comes back must not keep the process from ending.
            self._thread = threading.Thread(target=self._make, name="share", daemon=True)
            self._thread.start()
        asked, began = _Call(call, undo), time.monotonic()
        self._calls.put(asked)
        is_over = asked.over.wait(self._seconds)
        add_wait(time.monotonic() - began - asked.worked_seconds)
        if not is_over and asked.leave():
            self._stuck = asked
            raise self._unanswered()
        if asked.error is not None:
            raise asked.error
        return asked.answer  # type: ignore[no-any-return]

    def _make(self) -> None:
        while True:
            self._calls.get().make()

    def _unanswered(self) -> UnansweredError:
        return UnansweredError(
            f"no answer within {self._seconds:g} s; runs go on",
            advice="Check that the file server is on and can be reached from this machine.",
        )
