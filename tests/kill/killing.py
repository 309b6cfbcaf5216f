"""Turns a list of armed kills into SIGKILLs at crash points, inside the processes under test.

The harness writes `armed.json`; the daemon's and the stage's test commands call `listen`. Each side
counts its visits in a file of its own, across all its processes, so "the 57th point of the daemon"
is one place of the whole flow, whichever process comes there. The first armed kill of the list
is the one that is waited for; a hit takes it off the list.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from runner.contract import crash_points

ARMED, HITS = "armed.json", "hits"


def children_of(pid: int) -> list[int]:
    """List the child processes of a process."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            text = Path(f"/proc/{pid}/task/{task}/children").read_text()
            found += [int(word) for word in text.split()]
    except OSError:
        pass  # it has ended meanwhile
    return found


def kill(pid: int) -> None:
    """Kill, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def listen(folder: Path, side: str) -> None:
    """End this process, or the other side, or both, where the armed kill says."""
    visits = folder / f"visits-{side}"

    def visit(point: str, what: str) -> None:
        line = f"{point}\t{what}\n"
        with visits.open("ab", buffering=0) as file:
            file.write(line.encode())
        try:
            first, *others = json.loads((folder / ARMED).read_bytes())
        except (OSError, ValueError):
            return
        if first["side"] != side:
            return
        wanted = first.get("point")
        if wanted is not None and (point, what) != (wanted, first.get("what", what)):
            return
        seen = visits.read_text().splitlines()
        if wanted is not None:
            key = f"{point}\t{what}" if "what" in first else point
            seen = [old for old in seen if key in (old, old.split("\t")[0])]
        if len(seen) < first["index"]:
            return
        beside = folder / f"{ARMED}-{os.getpid()}"
        beside.write_text(json.dumps(others))
        beside.rename(folder / ARMED)
        with (folder / HITS).open("ab", buffering=0) as file:
            file.write(f"{side}\t{first['victims']}\t{line}".encode())
        other = [os.getppid()] if side == "child" else children_of(os.getpid())
        if first["victims"] in ("other", "both"):
            for pid in other:
                kill(pid)
        if first["victims"] in ("self", "both"):
            kill(os.getpid())

    crash_points.install(visit)
