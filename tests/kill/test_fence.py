"""A process that outlives its attempt changes nothing for the next one: its folder is a fence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from daemon_box import attempt_of, wait_until
from fast_stage import SLOW, TOTAL_STEPS
from invariants import adapter_lost, curve_of
from kill_box import HERE, KillBox

from runner.contract.checkpoints import names, verified
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.record import RunRecord
from runner.contract.states import State
from runner.daemon.stages.process import PID_FILE


class _BoxWithAZombie(KillBox):
    """A box whose first attempt is a process that the daemon cannot end.

    What the daemon starts is a stand-in that waits to be killed. The stage itself is a child of
    the test, as it would be one of another machine: it gets no signal from the daemon.
    """

    stage = HERE / "stage_elsewhere.py"

    def fill(self) -> None:
        """Drop one good spec."""
        (self.jobs / "job0.jsonl").write_text("rows of job0")
        self.drop_bytes("job0", "model: m\ndata: job0.jsonl\n", State.SUCCEEDED)

    def found(self) -> tuple[RunFolder, RunRecord]:
        """Give the run and its record."""
        (run,) = self.outputs.runs()
        return run, self.records()[0]


def _start_elsewhere(box: KillBox, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(HERE / "fast_stage.py"), str(box.root), "train", str(folder)],
        env={**os.environ, "RUNNER_DAEMON_PID": str(os.getpid())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _plan(run: RunFolder, number: int) -> dict[str, Any]:
    return json.loads(StageFolder(attempt_of(run, number)).plan.read_bytes())


def test_a_thawed_attempt_changes_nothing_for_the_next_one(tmp_path: Path) -> None:
    """It trains on, seals, prunes and says that it has succeeded: nobody hears of it.

    The next attempt goes on from what the first one had sealed, and every step counts once.
    """
    box = _BoxWithAZombie(tmp_path / "box", jobs=1)
    (box.root / SLOW).touch()
    with box.daemon(keep_checkpoints=True, settle_seconds=0.1) as daemon:
        (waiting,) = wait_until(lambda: list(box.outputs.root.glob("job0/*/attempts/01-*/waiting")))
        first = StageFolder(waiting.parent)
        zombie = _start_elsewhere(box, first.root)
        try:
            wait_until(lambda: '"step": 7' in _text(first.metrics))  # between two checkpoints
            os.kill(zombie.pid, signal.SIGSTOP)
            sealed = names(first.checkpoints)
            os.kill(int(waiting.read_text()), signal.SIGKILL)
            (run,) = box.outputs.runs()
            second = wait_until(lambda: next(iter(run.attempts.glob("02-*/metrics.jsonl")), None))
            assert names(run.checkpoints) == sealed  # adopted, before the second began
            assert box.found()[1].attempts[0].outcome is not None  # fenced, before it was placed
            at_work = int((second.parent / PID_FILE).read_text().split()[0])
            os.kill(at_work, signal.SIGSTOP)  # all that follows comes in the midst of the second
            os.kill(zombie.pid, signal.SIGCONT)
            assert zombie.wait(timeout=90) == 0
            late = json.loads(first.result.read_bytes())
            assert (late["outcome"], late["last_step"]) == ("succeeded", TOTAL_STEPS)
            assert names(first.checkpoints) == ["step-00000012", "step-00000009"]
            assert names(run.checkpoints) == sealed
            os.kill(at_work, signal.SIGCONT)
            daemon.wait(timeout=90)
        finally:
            zombie.kill()
            zombie.wait()
    run, record = box.found()
    assert record.state is State.SUCCEEDED, record.error
    assert [(a.first_step, a.last_step) for a in record.attempts] == [(1, 6), (7, 12)]
    assert [a.outcome for a in record.attempts] == ["killed", "succeeded"]
    assert _plan(run, 2)["resume_from"] == sealed[0]
    assert [step for step, _ in curve_of(run, record)] == list(range(1, TOTAL_STEPS + 1))
    assert adapter_lost(run, record) == []
    assert names(run.checkpoints)[:2] == ["step-00000012", "step-00000009"]
    assert all(verified(run.checkpoints / name) for name in names(run.checkpoints))
    assert not first.checkpoints.exists()  # what came late went before the next stage
