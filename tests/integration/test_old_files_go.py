"""Old files go by themselves, with the real daemon and a stand-in stage."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from daemon_box import REPOSITORY, Box, wait_until

from runner.contract.layout import RunFolder
from runner.contract.record import read_record
from runner.contract.requests import leave_request, read_requests
from runner.contract.states import State

ADAPTER = hashlib.sha256(b"").hexdigest()


def exported(run: RunFolder) -> None:
    """Leave what is large and the stand-in does not make."""
    for name in ("merged/model.safetensors", "data/c.jsonl", "prepared/train/data.arrow"):
        (run.root / name).parent.mkdir(parents=True, exist_ok=True)
        (run.root / name).write_bytes(b"x")


def succeeded(box: Box, number: int) -> RunFolder | None:
    """Give the newest run, once there are so many and it has succeeded."""
    runs = box.outputs.runs()
    done = len(runs) == number and runs[-1].record.exists()
    return runs[-1] if done and read_record(runs[-1].record).state is State.SUCCEEDED else None


def test_old_files_go_when_a_run_ends_and_when_another_comes_into_use(tmp_path: Path) -> None:
    """Also by `--once`, before it leaves; a run that lost its rows is not measured again."""
    box = Box(tmp_path)
    box.drop("c", adapter=ADAPTER)
    assert box.once(keep_checkpoints=True).returncode == 0
    (first,) = box.outputs.runs()
    assert list(first.checkpoints.iterdir())
    exported(first)
    box.drop("c", adapter=ADAPTER, train=["9"])
    assert box.once().returncode == 1  # the second run fails
    assert not first.checkpoints.exists()  # seen at the daemon's start
    failed = box.outputs.runs()[-1]
    exported(failed)
    with box.watching(keep_runs=1):
        box.drop("c", adapter=ADAPTER)
        third = wait_until(lambda: succeeded(box, 3))
        wait_until(lambda: not failed.data.exists())
        wait_until(lambda: not third.checkpoints.exists())
        assert first.merged.exists()
        exported(third)
        for run in (first, third):
            leave_request(box.outputs, "promote", job=run.job, run_id=run.run_id, by="anna")
            wait_until(lambda: not read_requests(box.outputs))
        box.drop("c", adapter=ADAPTER)
        fourth = wait_until(lambda: succeeded(box, 4))
        leave_request(box.outputs, "promote", job=fourth.job, run_id=fourth.run_id, by="anna")
        wait_until(lambda: not first.merged.exists() and not first.data.exists())
        assert third.merged.exists()
        assert third.data.exists()
    for run in (first, third):
        assert (run.adapter / "adapter_model.safetensors").is_file()
    assert '"removed": ["data", "prepared/train"' in failed.log.read_text()
    outputs = ("--outputs-dir", str(box.outputs.root))
    asked = subprocess.run(
        [sys.executable, "-m", "runner.cli", "evaluate", first.run_id, *outputs],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (asked.returncode, "because its job has newer runs" in asked.stderr) == (1, True)
