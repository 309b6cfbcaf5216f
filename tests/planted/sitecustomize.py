"""Faults of the box, planted from outside: Python imports this where PYTHONPATH names it.

A hang in the daemon's loop: nothing that people can put into a folder makes it wait any more, so
while a file `hang` lies in the daemon's private folder, it stands still where requests are read.

A clock that jumps: the variable PLANTED_CLOCK names a file with the seconds by which the clock is
wrong at the moment.
"""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

try:
    from runner import clock
except ImportError:  # a Python of something else
    clock = None


def plant_clock(where):
    """Let the runner's clock be wrong; all of it asks the one module."""

    def now(*, not_before=None):
        found = datetime.now(UTC) + timedelta(seconds=float(where.read_text()))
        return found if not_before is None else max(found, not_before)

    clock.now = now


def plant_hang():
    """Let the loop wait for as long as the file is there."""
    from runner.contract import requests

    read = requests.read_requests

    def read_requests(outputs):
        while (outputs.private / "hang").exists():
            time.sleep(0.1)
        return read(outputs)

    requests.read_requests = read_requests


if clock is not None:
    if "PLANTED_CLOCK" in os.environ:
        plant_clock(Path(os.environ["PLANTED_CLOCK"]))
    plant_hang()
