"""Turns two daemons that want one folder into one that has it and one that says who."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemon_box import REPOSITORY, wait_until
from kill_box import KillBox
from served import KINDS, Served

from runner.contract.errors import BusyError
from runner.daemon.lock import Lock

_HOLD = """
import sys
from pathlib import Path
from runner.daemon.lock import Lock
lock = Lock.take(Path(sys.argv[1]), what="it")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold a lock in another process."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        yield holder
    finally:
        holder.kill()
        holder.communicate()


def test_a_lock_names_its_holder_and_ends_with_it(served: Served, kind: str) -> None:
    """Whoever comes second reads who is there, on NFS also from elsewhere; kill -9 frees it."""
    path = served.here / ".runner-lock"
    seen_from = [path]
    if kind == "nfs":
        # The server itself sees it. Over SMB another machine does not: the kernel's cifs (6.1)
        # keeps a lock to itself as long as it holds the file's lease, and loses it with that.
        seen_from.append(served.people / ".runner-lock")
    with holding(path) as holder:
        for seen in seen_from:
            with pytest.raises(BusyError, match=f"process {holder.pid} on "):
                Lock.take(seen, what="The inbox")
        holder.kill()
        holder.wait()
        for seen in seen_from:
            lock = wait_until(lambda at=seen: _taken(at))
            lock.release()


def _taken(path: Path) -> Lock | None:
    try:
        return Lock.take(path, what="it")
    except BusyError:
        return None  # the server hears of the end of its client in a moment


def test_outputs_on_a_share_survive_a_killed_daemon(kind: str, tmp_path: Path) -> None:
    """With outputs/ on a share: a second daemon is told who is there; after kill -9 all is done."""
    share = KINDS[kind](tmp_path / "share", tmp_path / "box" / "outputs")
    share.start()
    try:
        box = KillBox(tmp_path / "box")
        box.arm([])
        (box.root / "slow").touch()
        with box.watching() as daemon:
            wait_until(lambda: len(box.records()) == 2, seconds=60)
            other = box.root / "other-jobs"
            other.mkdir()
            second = box.once(jobs_dir=str(other))
            assert second.returncode == 3
            assert f"process {daemon.pid} on " in second.stderr
            daemon.kill()
            daemon.wait()
        (box.root / "slow").unlink()
        box.live([])
        assert box.lost() == []
    finally:
        share.stop()
