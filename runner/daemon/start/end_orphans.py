"""Orphans: stages that a dead daemon left running are ended before they start again.

They are found by their command line, which ends in a stage's name and its folder, or, where they
stood by before they were told a stage, by the folder that they stand in. A file with a process id
could be missing, because the daemon may die between the start and the writing of it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

from runner.contract.stage_environment import BOX
from runner.contract.standing_by import STAND_BY
from runner.contract.states import Stage


def _is_of(pid: str, box: str) -> bool:
    """Whether a stage was started by a box's agent; the daemon's own have no box."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or hides: then it is taken for the daemon's own, as any other
        return not box
    named = f"{BOX}=".encode()
    found = next((one for one in variables if one.startswith(named)), named)
    return found.removeprefix(named) == box.encode()


def _stages_beneath(outputs: Path, box: str) -> list[tuple[int, str]]:
    """List processes that run a stage in a folder beneath ``outputs``, with that folder."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            command = Path(entry.path, "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has ended, or is not ours to look at
        words = command.rstrip("\0").split("\0")
        if len(words) > 2 and words[-2] in set(Stage) and words[-1].startswith(f"{outputs}/"):
            if _is_of(entry.name, box):
                found.append((int(entry.name), words[-1]))
        elif len(words) > 1 and words[-1] == STAND_BY and _is_of(entry.name, box):
            with contextlib.suppress(OSError):
                folder = os.readlink(Path(entry.path, "cwd"))
                if folder.startswith(f"{outputs}/"):
                    found.append((int(entry.name), folder))
    return found


def end_orphans(outputs: Path, *, grace_seconds: float, box: str = "") -> list[str]:
    """End every stage beneath ``outputs`` and its helpers; give their folders.

    The kernel has asked them to stop when the daemon died: one may be leaving a checkpoint.

    Args:
        outputs: the folder of all runs.
        grace_seconds: so long each has to end by itself.
        box: of whose agent; empty: the daemon's own.
    """
    root = outputs.resolve()
    ended = []
    handles: dict[int, int] = {}  # descriptor → pid: a pid alone could be given to somebody else
    for pid, folder in _stages_beneath(root, box):
        with contextlib.suppress(OSError):
            handles[os.pidfd_open(pid)] = pid
            ended.append(folder)
    still = {pid for pid, _ in _stages_beneath(root, box)}
    handles = {handle: pid for handle, pid in handles.items() if pid in still}
    for handle in handles:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(handle, signal.SIGTERM)
    end = time.monotonic() + grace_seconds
    for handle in handles:
        select.select([handle], [], [], max(0.0, end - time.monotonic()))
    for handle in handles:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], 1.0)  # gone for certain before anything is started anew
        os.close(handle)
    return ended
