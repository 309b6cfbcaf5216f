"""Turns armed kills into SIGKILLs, a full disk or a hang at crash points in the processes.

The harness writes `armed.json`; the daemon's and the stage's test commands call `listen`. Each side
counts its visits in a file of its own, across all its processes, so "the 57th point of the daemon"
is one place of the whole flow, whichever process comes there. The first armed kill of the list
is the one that is waited for; a hit takes it off the list.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from pathlib import Path

from runner.contract.layout import RUN_ID
from runner.files import crash_points

ARMED, HITS, VISITS = "armed.json", "hits", "visits"
FILLER = "filler"


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


def all_beneath(pid: int) -> list[int]:
    """List a process's children, and theirs: the ranks of a stage that trains on several cards."""
    return [one for child in children_of(pid) for one in (child, *all_beneath(child))]


def launcher() -> int:
    """Give the process that the daemon started: this one, or that which started this rank."""
    return os.getsid(0)


def daemon_pid() -> int:
    """Give the daemon's process id, in a stage or in one of its ranks."""
    fields = Path(f"/proc/{launcher()}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1])


def kill(pid: int) -> None:
    """Kill, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def cut_the_power(daemon: int) -> None:
    """Kill a daemon and all that it runs, but this process: it must kill itself next.

    The daemon is held first, so that it starts nothing meanwhile, and dies last: its death would
    ask the children for a checkpoint, which no power cut does.
    """
    os.kill(daemon, signal.SIGSTOP)
    for pid in all_beneath(daemon):
        if pid != os.getpid():
            kill(pid)
    kill(daemon)


def fill(disk: Path, *, leave_bytes: int = 0) -> None:
    """Fill a disk up to so many bytes: somebody else's file, not the runner's."""
    with (disk / FILLER).open("ab", buffering=0) as file:
        for size in (1024**2, 65_536, 4096):
            while os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize >= leave_bytes + size:
                try:
                    file.write(b"\0" * size)
                except OSError as error:
                    assert error.errno == errno.ENOSPC
                    break


def make_room(disk: Path) -> None:
    """Take the filler away."""
    (disk / FILLER).unlink(missing_ok=True)


def listen(folder: Path, side: str) -> None:
    """End this process, or the other side, or both, where the armed kill says."""
    visits = folder / f"visits-{side}"

    def visit(point: str, what: str) -> None:
        what = RUN_ID.sub("RUN", what)  # a notice is named so, and each box's runs are others
        line = f"{point}\t{what}\n"
        with visits.open("ab", buffering=0) as file:
            file.write(line.encode())
        with (folder / VISITS).open("ab", buffering=0) as file:
            file.write(f"{side}\t{line}".encode())
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
        if first["victims"] == "disk":
            fill(Path(first["disk"]), leave_bytes=first.get("room", 0) * 1024**2)
            return
        if first["victims"] == "hang":
            threading.Event().wait()
        other = [daemon_pid()] if side == "child" else all_beneath(os.getpid())
        if first["victims"] == "launcher":
            kill(launcher())
        if first["victims"] == "both" and side == "child":
            cut_the_power(daemon_pid())
        elif first["victims"] in ("other", "both"):
            for pid in other:
                kill(pid)
        if first["victims"] in ("self", "both"):
            kill(os.getpid())

    crash_points.install(visit)
