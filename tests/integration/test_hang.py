"""Turns what stands still, the daemon's loop or a child, into its end, and into going on."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_box import REPOSITORY, Box, wait_until

from runner.contract.states import Stage, State
from runner.daemon.stages.hang import patience_seconds


def test_a_daemon_that_hangs_ends_itself(tmp_path: Path) -> None:
    """It asks the stages to stop, waits, says where it hung, and ends; the next goes on."""
    box = Box(tmp_path)
    box.prefix = ["env", f"PYTHONPATH={REPOSITORY / 'tests' / 'planted'}:{REPOSITORY}"]
    box.drop("slow", train=["train 3 then hang", "ok"])
    with box.watching(hang_seconds=2) as daemon:
        wait_until(lambda: list(box.outputs.root.glob("slow/*/attempts/01-*/hanging")))
        hang = box.outputs.private / "hang"
        hang.touch()
        assert daemon.wait(timeout=30) == 1
    said = (tmp_path / "daemon.out").read_text()
    assert "the loop stood still for 2 s" in said
    assert "in read_requests" in said
    hang.unlink()
    assert box.once().returncode == 0
    assert [attempt.last_step for attempt in box.record().attempts] == [3, 8]
    assert box.in_state(State.SUCCEEDED)


def test_a_child_that_hangs_is_asked_where_and_resumed(tmp_path: Path) -> None:
    """No progress for longer than its own steps take: its stack in the log, then on from there."""
    box = Box(tmp_path)
    box.drop("slow", train=["train 3 then stubborn", "ok"])
    done = box.once(stall_seconds=1, hung_grace_seconds=0.5)
    assert done.returncode == 0, done.stderr
    first, second = box.record().attempts
    assert (first.outcome, first.last_step, first.exit_code) == ("hung", 3, -signal.SIGKILL)
    assert "no progress for" in str(first.reason)
    assert (second.outcome, second.first_step, second.last_step) == ("succeeded", 4, 8)
    (log,) = box.outputs.root.glob("slow/2*/attempts/01-*/train.log")
    assert "standin_stage.py" in log.read_text()
    assert "in main" in log.read_text()


def test_a_run_that_hangs_twice_fails(tmp_path: Path) -> None:
    """Even with progress in between; the answer says where its stacks are."""
    box = Box(tmp_path)
    box.drop("slow", train=["train 3 then stubborn", "train 2 then hang", "ok"])
    assert box.once(stall_seconds=1, hung_grace_seconds=0.5).returncode == 1
    assert [attempt.outcome for attempt in box.record().attempts] == ["hung", "hung"]
    assert [attempt.last_step for attempt in box.record().attempts] == [3, 5]
    assert box.in_state(State.FAILED)
    assert "for the second time" in box.answer("failed")
    assert re.search(r"/attempts/02-\w+/train\.log", box.answer("failed"))


@pytest.mark.parametrize(
    ("stage", "times", "patience"),
    [
        (Stage.TRAIN, [], 3600.0),
        (Stage.TRAIN, [100.0], 3600.0),
        (Stage.TRAIN, [100.0, 102.0, 104.0], 600.0),
        (Stage.TRAIN, [100.0, 102.0, 222.0, 224.0], 1200.0),
        (Stage.PREPARE, [], 21_600.0),
        (Stage.EVALUATE, [], 21_600.0),
    ],
)
def test_patience_is_drawn_from_the_runs_own_steps(
    stage: Stage, times: list[float], patience: float
) -> None:
    """Ten of its longest steps, and never less than ten minutes."""
    assert patience_seconds(stage, times, floor_seconds=600.0) == patience


def test_a_real_stage_tells_its_stack_and_goes_on(tmp_path: Path) -> None:
    """The question alone ends nothing: whoever was only slow comes to its end."""
    code = (
        "import os, sys, runner.training.__main__ as top\n"
        "top._run = lambda stage, folder, place: os.kill(os.getpid(), top.STACK_SIGNAL)\n"
        "sys.exit(top.main(['export', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "in main" in done.stderr


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
