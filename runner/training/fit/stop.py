"""Stop: the daemon asks an attempt to leave a checkpoint and end; looked at between passes."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from types import FrameType

_TOUCH_SECONDS = 5.0  # a step may be long, a pass hardly


class Interrupted(Exception):  # noqa: N818  (not a fault)
    """The daemon asked this attempt to stop."""


class StopFlag:
    """Set by SIGTERM; looked at between passes, where a checkpoint can be made."""

    def __init__(self) -> None:
        """Start listening."""
        self.is_set = False
        self.shows_life_in: Path | None = None
        """A file that is touched between passes: the daemon takes its standing still for a hang."""
        self._touched = 0.0
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.is_set = True

    def check(self) -> None:
        """Show that the process lives; raise Interrupted when the flag is set."""
        if time.monotonic() - self._touched >= _TOUCH_SECONDS:
            self.show_life()
        if self.is_set:
            raise Interrupted

    def show_life(self) -> None:
        """Touch the file."""
        self._touched = time.monotonic()
        if self.shows_life_in is not None:
            with contextlib.suppress(OSError):
                os.utime(self.shows_life_in)
