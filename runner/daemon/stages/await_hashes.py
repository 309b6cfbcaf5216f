"""Wait for hashes: a run whose checkpoint is being checked says so, and its step is done later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from runner.daemon.book import Live
from runner.daemon.change_run import keep_waiting
from runner.daemon.daemon import Daemon
from runner.daemon.hashes import StillHashing

CHECKING = "its checkpoint is being checked for damage; large ones take a minute"


@contextmanager
def awaiting_hashes(daemon: Daemon, live: Live) -> Iterator[None]:
    """Leave a step undone until all that it needs is hashed; it is tried again in later rounds.

    What a step needs hashed it asks for first, before it changes anything.
    """
    try:
        yield
    except StillHashing:
        keep_waiting(daemon, live, CHECKING)
