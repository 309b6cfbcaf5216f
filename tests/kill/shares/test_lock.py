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
from served import KINDS, Served, Smb

from runner.errors import BusyError
from runner.files.lock import Lock

_HOLD = """
import sys
from pathlib import Path
from runner.files.lock import Lock
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


def test_a_lock_names_its_holder_and_ends_with_it(served: Served) -> None:
    """Whoever comes second on this machine reads who is there; kill -9 frees the lock."""
    path = served.here / ".runner-lock"
    _refused_while_held(path, path)


def test_two_machines_on_an_smb_share_are_kept_apart(kind: str, tmp_path: Path) -> None:
    """Mounted with nolease, as docs/share.md says: cifs keeps a lock under a lease to itself."""
    if kind != "smb":
        pytest.skip("two clients of one server in one kernel can be had with SMB only")
    share = Smb(tmp_path / "share", tmp_path / "here")
    share.start()
    boxes = [tmp_path / "one", tmp_path / "other"]
    try:
        for box in boxes:
            box.mkdir()
            share.mount_at(box, more=",nolease")
        _refused_while_held(*(box / ".runner-lock" for box in boxes))
    finally:
        for box in boxes:
            subprocess.run(["umount", box], check=False)
        share.stop()


def _refused_while_held(one: Path, other: Path) -> None:
    """Hold the lock by its one path; by the other it is refused, until its holder is killed."""
    with holding(one) as holder:
        with pytest.raises(BusyError, match=f"process {holder.pid} on "):
            Lock.take(other, what="The inbox")
        holder.kill()
        holder.wait()
        wait_until(lambda: _taken(other)).release()


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
