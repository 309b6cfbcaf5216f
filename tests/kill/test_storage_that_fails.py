"""Turns single failed reads of a real disk call into runs that end as if nothing had been.

`strace` lets a system call on one file fail in the real daemon, or in a real stage: the file itself
is whole all the time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from daemon_box import REPOSITORY
from figures import Figures
from kill_box import AtPoint, KillBox
from system_calls import needs_strace

from runner.contract.checkpoints import Manifest
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.stage_io import ExportPlan, StageFailure, read_message, write_message
from runner.exit_codes import ExitCode
from runner.training.fit.checkpoint import seal


def failing(path: Path, call: str, error: str, *, times: int) -> list[str]:
    """Give the command before which a call on a file fails so many times.

    Only in the process itself: each of its children would count anew.
    """
    inject = f"inject={call}:error={error}:when=1..{times}"
    quiet = ["-e", "signal=none", "-o", os.devnull]
    return ["strace", *quiet, "-P", str(path), "-e", f"trace={call}", "-e", inject]


class _FailingBox(KillBox):
    """Puts a command before the daemon's own."""

    before: tuple[str, ...] = ()

    def command(self, **settings: Any) -> list[str]:
        """Build the daemon's command line."""
        return [*self.before, *super().command(**settings)]


@needs_strace
@pytest.mark.parametrize(
    ("name", "call", "error", "times"),
    [
        ("adapter_model.safetensors", "openat", "EIO", 2),
        ("manifest.json", "openat", "ETIMEDOUT", 2),  # the first one meets what is pruned
        ("state", "read", "ESTALE", 1),
    ],
)
def test_a_checkpoint_that_cannot_be_read_once_is_waited_for(
    tmp_path: Path, name: str, call: str, error: str, times: int, figures: Figures
) -> None:
    """Nothing is set aside, no step is done again, and the log names file, error and mend."""
    box = _FailingBox(tmp_path / "box", jobs=1)
    box.keep_checkpoints = True
    box.arm([AtPoint(side="child", point="checkpoint named", victims="both", index=2)])
    with box.daemon() as daemon:
        daemon.wait(timeout=box.life_seconds)
    (run,) = box.outputs.root.glob("job0/*/")
    box.arm([])
    checkpoint = run / "checkpoints" / "step-00000006"
    box.before = tuple(failing(checkpoint / name, call, error, times=times))
    with box.daemon() as daemon:
        daemon.wait(timeout=box.life_seconds)
    assert box.lost() == []
    (record,) = [one for one in box.records() if one.job == "job0"]
    assert [attempt.last_step for attempt in record.attempts] == [6, 12]
    assert not list(run.glob("checkpoints/torn-*"))
    log = (run / "log.jsonl").read_text()
    assert f"checkpoints/step-00000006/{name} cannot be read now (" in log
    assert "nothing was changed, and it is tried again by itself" in log
    figures.count("a checkpoint that fails to read")


@needs_strace
def test_a_stage_that_cannot_read_its_checkpoint_judges_nothing(tmp_path: Path) -> None:
    """A real stage says so by a status of its own, and its result names the file."""
    run = RunFolder(tmp_path / "outputs" / "job" / "20261123T221005Z-k3f9")
    work = run.root / "work"
    work.mkdir(parents=True)
    (work / "trainer_state.json").write_text("{}")
    name = seal(work, run.checkpoints, Manifest(step=3))
    run.export.mkdir()
    plan = ExportPlan(models_dir=str(tmp_path), checkpoint=name)
    write_message(StageFolder(run.export).plan, plan)
    command = [sys.executable, "-m", "runner.training", "export", str(run.export)]
    before = failing(run.checkpoints / name / "trainer_state.json", "openat", "EIO", times=1)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(
        [*before, *command], env=environment, check=False, timeout=120, capture_output=True
    )
    assert ended.returncode == ExitCode.UNREADABLE, ended.stderr
    error = read_message(StageFolder(run.export).result, StageFailure).error
    where = f"outputs/job/{run.run_id}/checkpoints/{name}"
    assert error.kind == "unreadable"
    assert error.message == f"{where}/trainer_state.json cannot be read now (Input/output error)"
    assert f"delete the folder {where}/" in (error.advice or "")
    assert json.loads((run.checkpoints / name / "manifest.json").read_text())["step"] == 3
