"""Wake-up: ends the loop's wait early, from other threads and signal handlers."""

from __future__ import annotations

import contextlib
import os
import select


class Wakeup:
    """A pipe: unlike ``threading.Event`` it may be set from a signal handler without deadlock."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def set(self) -> None:
        """End the present wait, or the next one."""
        with contextlib.suppress(BlockingIOError, OSError):  # full: the loop is awake anyway
            os.write(self._write, b"\0")

    def wait(self, seconds: float) -> bool:
        """Wait for at most ``seconds``; tell whether somebody called."""
        ready, _, _ = select.select([self._read], [], [], max(0.0, seconds))
        if ready:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._read, 4096):
                    pass
        return bool(ready)
