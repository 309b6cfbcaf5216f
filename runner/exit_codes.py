"""Names what a stage's exit status says; how often each is retried stands in daemon/retry.py."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """One meaning each. A negative status is the signal that ended the child."""

    OK = 0
    UNEXPECTED = 1
    """A defect of ours or of a library: the traceback is in the stage's log."""
    BAD_INPUT = 10
    """The spec, data or model cannot be used. Never retried."""
    OUT_OF_GPU_MEMORY = 11
    """The batch plan does not fit. Retried with a smaller plan."""
    OUT_OF_HOST_MEMORY = 12
    """The machine's own memory ran out."""
    INTERRUPTED = 13
    """Asked to stop; a checkpoint of the last finished step was left. Resumed, same plan."""
    GPU_LOST = 14
    """The card or its driver went away. Holds the queue."""
    DIVERGED = 15
    """The loss became NaN or exploded. Never retried."""
    DISK_FULL = 16
    """No space was left to write. Waits for space, then goes on."""
    UNREADABLE = 17
    """A disk or share did not answer; nothing is known of what it holds. Tried again later."""
