"""Turns a trace of system calls into the proof that a power cut finds whole files.

A SIGKILL cannot show a missing fsync: what was written stays in the kernel's memory.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from daemon_box import REPOSITORY
from kill_box import KillBox
from system_calls import COMMAND, judge_all
from test_kill_trainer import TrainerBox

# Records and messages, the claim's moves, snapshots, checkpoints, the adapter. Not: answers (they
# are written anew), what is thrown away, a library's own folders.
_COUNTS = re.compile(
    r"/outputs/[^.][^/]*/[^/]+/((attempts/\d+|prepared|export|evaluation)/)?"
    r"((run|plan|result)\.json|spec\.yaml|adapter|(checkpoints/step-\d+)(/manifest\.json)?"
    r"|data/[^.][^/]*)$"
    r"|/jobs/(queued|running|done|rejected)/[^/]*\.yaml$"
)
_NO_FOLDER_SYNC = """
import runner.contract.durable as planted
planted.sync_folder = lambda folder: None
"""
_NO_FILE_SYNC = """
import os
import runner.contract.durable as planted
class _Os:
    def __getattr__(self, name):
        return getattr(os, name)
    @staticmethod
    def fsync(descriptor):
        pass
planted.os = _Os()
"""

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None,
    reason="NO STRACE HERE: nothing is proved about fsync (it is a Debian package)",
)


def _trace(box: KillBox) -> tuple[list[str], list[str]]:
    traces = box.root / "traces"
    traces.mkdir()
    with (box.root / "daemon.out").open("ab") as output:
        subprocess.run(
            [*COMMAND, str(traces / "of"), *box.command(once=True)],
            cwd=REPOSITORY,
            env=box.environment,
            stdout=output,
            stderr=output,
            check=False,
            timeout=500,
        )
    return judge_all(traces, _COUNTS)


def _kinds(renamed: list[str]) -> set[str]:
    return {re.sub(r"\d+", "N", path.rpartition("/")[2]) for path in renamed}


@needs_strace
def test_every_rename_is_synced_before_and_after(tmp_path: Path, figures: dict[str, str]) -> None:
    """No record, checkpoint or adapter is named before its bytes are durable, nor left unsynced."""
    box = KillBox(tmp_path / "box")
    renamed, faults = _trace(box)
    assert box.lost() == []
    assert {"run.json", "spec.yaml", "plan.json", "result.json", "adapter"} <= _kinds(renamed)
    assert "step-N" in _kinds(renamed)
    assert not faults, "\n".join(faults)
    figures["fsync: renames judged, stand-in"] = f"{len(renamed)}, faults: 0"


@needs_strace
@pytest.mark.timeout(600)
def test_the_real_stages_sync_as_well(
    tmp_path: Path, tiny_model: Path, figures: dict[str, str]
) -> None:
    """What Trainer and the libraries write is synced before it is named a checkpoint or adapter."""
    box = TrainerBox(tmp_path / "box", tiny_model, steps=6)
    renamed, faults = _trace(box)
    assert {"run.json", "result.json", "adapter", "step-N"} <= _kinds(renamed)
    assert not faults, "\n".join(faults)
    figures["fsync: renames judged, real stages"] = f"{len(renamed)}, faults: 0"


@needs_strace
@pytest.mark.parametrize(
    ("fault", "seen"),
    [(_NO_FOLDER_SYNC, "was not synced after"), (_NO_FILE_SYNC, "was named before")],
    ids=["folders are not synced", "files are not synced"],
)
def test_a_missing_fsync_is_seen(tmp_path: Path, fault: str, seen: str) -> None:
    """A daemon that forgets one of the two does not pass."""
    box = KillBox(tmp_path / "box", fault=fault)
    _, faults = _trace(box)
    assert [line for line in faults if seen in line]
