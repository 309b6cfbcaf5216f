"""Observer: the kernel's events of a folder, through watchdog."""

from __future__ import annotations

import logging

from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver


def new_observer() -> BaseObserver:
    """Give an observer that does not write about its own end into the daemon's output."""
    logging.getLogger("watchdog").addHandler(logging.NullHandler())
    return Observer()
