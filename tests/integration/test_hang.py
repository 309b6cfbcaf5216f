"""Turns a loop that stands still into the end of the daemon."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from daemon_box import Box, wait_until

from runner.contract.states import State


def test_a_daemon_that_hangs_ends_itself(tmp_path: Path) -> None:
    """It asks the stages to stop, waits, says where it hung, and ends; the next goes on."""
    box = Box(tmp_path)
    box.drop("slow", train=["train 3 then hang", "ok"])
    with box.watching(hang_seconds=2) as daemon:
        wait_until(lambda: list(box.outputs.root.glob("slow/*/attempts/01/hanging")))
        pipe = box.outputs.requests / "0.json"
        os.mkfifo(pipe)  # it waits for a writer that never comes
        assert daemon.wait(timeout=30) == 1
    said = (tmp_path / "daemon.out").read_text()
    assert "the loop stood still for 2 s" in said
    assert "in read_requests" in said
    pipe.unlink()
    assert box.once().returncode == 0
    assert [attempt.last_step for attempt in box.record().attempts] == [3, 8]
    assert box.in_state(State.SUCCEEDED)


def test_a_daemon_that_is_well_does_not_end(tmp_path: Path) -> None:
    """Rounds go on while nothing happens, ten times as long as a hang may last."""
    box = Box(tmp_path)
    with box.watching(hang_seconds=1, rescan_seconds=0.1) as daemon:
        wait_until(box.outputs.heartbeat.exists)
        first = box.outputs.heartbeat.read_text()
        wait_until(lambda: box.outputs.heartbeat.read_text() != first)
        assert daemon.poll() is None


def test_the_group_of_the_share_may_work_with_the_state_folders(tmp_path: Path) -> None:
    """Whatever mask the daemon was started with: 0770 there, 0640 and 0750 for results."""
    box = Box(tmp_path)
    box.jobs.chmod(0o2770)
    box.drop("quick")
    before = os.umask(0o077)
    try:
        assert box.once().returncode == 0
    finally:
        os.umask(before)
    run = next(iter(box.outputs.runs()))
    assert stat.S_IMODE((box.jobs / "done").stat().st_mode) == 0o2770
    assert stat.S_IMODE(run.root.stat().st_mode) == 0o750
    assert stat.S_IMODE(run.record.stat().st_mode) == 0o640
