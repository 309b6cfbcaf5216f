"""Waits: how long this process has waited for a disk to write and for the share to answer.

A record counts only once the disk has it, so this waiting cannot be saved; it is measured apart
from what the daemon's loop does itself (daemon/rounds.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_waited = [0.0]  # of the loop's own thread: nobody else writes records


def waited_seconds() -> float:
    """Tell how long was waited so far."""
    return _waited[0]


def add_wait(seconds: float) -> None:
    """Count a wait."""
    _waited[0] += max(0.0, seconds)


@contextmanager
def waiting() -> Iterator[None]:
    """Count the time of a call that waits for a disk."""
    began = time.monotonic()
    try:
        yield
    finally:
        add_wait(time.monotonic() - began)
