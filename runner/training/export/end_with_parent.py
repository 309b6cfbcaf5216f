"""Orphans of a stage: a program that the stage starts ends when the stage does, however that ends.

llama.cpp's programs know nothing of the stage. One whose parent was killed would go on for hours,
with a model in memory. The kernel kills it instead: this file, run as a script by the stage, asks
for that and then becomes the program.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(command: Sequence[str]) -> list[str]:
    """Give the command line that runs a program which ends with this process.

    It counts from the thread that starts it: that has to be the one that waits for it.
    """
    # Not by subprocess's preexec_fn: torch's threads may hold a lock at the moment of the fork.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def _become(parent: int, command: Sequence[str]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)  # it had died before that line
    os.execv(command[0], list(command))  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
