"""Wait for answers: a step that needs what a thread finds out is done in a later round.

A checkpoint that is being hashed is shown as the reason; the driver answers before anybody looks.
A file that cannot be read now is shown as well: the run rests, longer each time, and the others go
on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from runner.contract.record import ErrorFacts
from runner.contract.unread import TRIED_AGAIN, unread
from runner.daemon.ask_aside import NotYet
from runner.daemon.book import Live
from runner.daemon.change_run import keep_waiting
from runner.daemon.daemon import Daemon
from runner.daemon.hashes import StillHashing
from runner.errors import UnreadableError

_T = TypeVar("_T")
_FIRST_REST_SECONDS, _LONGEST_REST_SECONDS = 5.0, 600.0
"""A server that starts anew is back after a minute; a disk that fails is not hurried to its end by
reading gigabytes of it all the time."""

CHECKING = "its checkpoint is being checked for damage; large ones take a minute"


@contextmanager
def awaiting_answers(daemon: Daemon, live: Live) -> Iterator[None]:
    """Leave a step undone until all that it needs is known; it is tried again in later rounds.

    What a step needs it asks for first, before it changes anything.
    """
    try:
        yield
    except StillHashing:
        if not live.unread_in_a_row:  # it says what is the matter until the file has been read
            keep_waiting(daemon, live, CHECKING)
    except NotYet:
        pass
    except UnreadableError as error:
        rest_unread(daemon, live, unread(error, outputs=daemon.settings.outputs_dir))


def rest_unread(daemon: Daemon, live: Live, found: ErrorFacts) -> None:
    """Let a run rest of which a file cannot be read now, and tell whoever waits for it."""
    live.unread_in_a_row += 1
    live.rests_until = time.monotonic() + rest_seconds(live.unread_in_a_row)
    keep_waiting(daemon, live, f"{found.message}; {TRIED_AGAIN}", advice=found.advice)


def rest_seconds(times: int) -> float:
    """Say how long a run rests after so many tries in a row to read a file of it."""
    longer: float = 2.0 ** min(times - 1, 30)
    return min(_FIRST_REST_SECONDS * longer, _LONGEST_REST_SECONDS)


def unless_cancelled(live: Live, read: Callable[[], _T]) -> _T | None:
    """Read what a run goes on from; None: it is cancelled, and that waits for no disk.

    Raises:
        UnreadableError: it cannot be read now, and the run is to go on.
    """
    try:
        return read()
    except UnreadableError:
        if not live.cancel:
            raise
        return None
