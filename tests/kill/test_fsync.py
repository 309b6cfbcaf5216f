"""Turns a trace of system calls into the proof that a power cut finds whole files.

A SIGKILL cannot show a missing fsync: what was written stays in the kernel's memory.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from figures import Figures
from kill_box import KillBox
from system_calls import COUNTS, TRACES, judge_all, kinds, needs_strace, traced

_NO_FOLDER_SYNC = """
import runner.files.durable as planted
planted.sync_folder = lambda folder: None
"""
_NO_FILE_SYNC = """
import os
import runner.files.durable as planted
class _Os:
    def __getattr__(self, name):
        return getattr(os, name)
    @staticmethod
    def fsync(descriptor):
        pass
planted.os = _Os()
"""


@needs_strace
def test_every_rename_is_synced_before_and_after(tmp_path: Path, figures: Figures) -> None:
    """No record, checkpoint or adapter is named before its bytes are durable, nor left unsynced."""
    box = KillBox(tmp_path / "box")
    traced(box)
    renamed, faults = judge_all(box.root / TRACES, COUNTS)
    assert box.lost() == []
    assert {"run.json", "spec.yaml", "plan.json", "result.json", "adapter"} <= kinds(renamed)
    assert "step-N" in kinds(renamed)
    assert not faults, "\n".join(faults)
    figures.count("fsync: renames judged, stand-in", len(renamed))


@needs_strace
@pytest.mark.parametrize(
    ("fault", "seen"),
    [(_NO_FOLDER_SYNC, "was not synced after"), (_NO_FILE_SYNC, "was named before")],
    ids=["folders are not synced", "files are not synced"],
)
def test_a_missing_fsync_is_seen(tmp_path: Path, fault: str, seen: str) -> None:
    """A daemon that forgets one of the two does not pass."""
    box = KillBox(tmp_path / "box", fault=fault)
    traced(box)
    _, faults = judge_all(box.root / TRACES, COUNTS)
    assert [line for line in faults if seen in line]
