"""Take a turn: hold the outputs folder, or have the daemon that holds it do what is asked.

Several commands may run at once while no daemon does. Each holds the folder for a moment, so that
"somebody holds it" does not say yet that somebody carries requests out.
"""

from __future__ import annotations

import time
from typing import Any

from runner.contract.layout import Outputs
from runner.contract.requests import leave_request
from runner.errors import BusyError
from runner.files.lock import Lock

_WAIT_SECONDS = 3.0
"""Other commands are done by then, and a daemon that is not at something long, too."""
_EVERY_SECONDS = 0.02


def take_turn(outputs: Outputs, verb: str, **args: Any) -> Lock | None:
    """Take the lock to do it at once; None: the request lies there, and the daemon does it.

    Raises:
        OSError: neither the lock can be taken nor a request be left.
    """
    outputs.private.mkdir(parents=True, exist_ok=True)  # a backup may come back without it
    if (lock := _take(outputs)) is not None:
        return lock
    request = leave_request(outputs, verb, **args)
    end = time.monotonic() + _WAIT_SECONDS
    while request.exists() and time.monotonic() < end:
        if (lock := _take(outputs)) is None:
            time.sleep(_EVERY_SECONDS)
            continue
        if request.exists():
            request.unlink()  # nobody else can carry it out now
            return lock
        lock.release()  # a daemon did, and ended
    return None


def _take(outputs: Outputs) -> Lock | None:
    try:
        return Lock.take(outputs.lock, what=f"The outputs folder {outputs.root}")
    except BusyError:
        return None
