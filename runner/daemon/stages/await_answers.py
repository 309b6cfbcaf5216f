"""Wait for answers: a step that needs what a thread finds out is done in a later round.

A checkpoint that is being hashed is shown as the reason; the driver answers before anybody looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from runner.daemon.ask_aside import NotYet
from runner.daemon.book import Live
from runner.daemon.change_run import keep_waiting
from runner.daemon.daemon import Daemon
from runner.daemon.hashes import StillHashing

CHECKING = "its checkpoint is being checked for damage; large ones take a minute"


@contextmanager
def awaiting_answers(daemon: Daemon, live: Live) -> Iterator[None]:
    """Leave a step undone until all that it needs is known; it is tried again in later rounds.

    What a step needs it asks for first, before it changes anything.
    """
    try:
        yield
    except StillHashing:
        keep_waiting(daemon, live, CHECKING)
    except NotYet:
        pass
