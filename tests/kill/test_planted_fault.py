"""Turns faults that are planted on purpose into the proof that the kill tests would see them."""

from __future__ import annotations

from pathlib import Path

import pytest
from kill_box import AtPoint, Kill, KillBox

_NOT_ADOPTED = """
import runner.daemon.inbox.follow_view as planted
planted.run_id_of = lambda name: None
"""
_FROM_THE_START = """
import runner.daemon.stages.begin as planted
from runner.daemon.stages.resume_point import ResumePoint
planted.resume_point = lambda run, sha256: ResumePoint(checkpoint=None)
"""
_IN_PLACE = """
import runner.files.durable as planted
from runner.files.crash_points import reached
def write_in_place(path, content, mode=0o640):
    with path.open("wb", buffering=0) as file:
        file.write(content[:40])
        reached("file written", path.name)
        file.write(content[40:])
planted.write_bytes = write_in_place
"""


@pytest.mark.parametrize(
    ("fault", "kill", "seen"),
    [
        (_NOT_ADOPTED, AtPoint(side="daemon", point="spec moved", victims="both"), "lies at"),
        (
            _FROM_THE_START,
            AtPoint(side="child", point="checkpoint named", index=2, victims="both"),
            "ran again behind checkpoint",
        ),
        (
            _IN_PLACE,
            AtPoint(side="daemon", point="file written", what="run.json", index=6, victims="both"),
            "lies at ['failed/",  # its record cannot be read: shown as damaged
        ),
    ],
    ids=["claims are not adopted", "training starts over", "records are written in place"],
)
def test_a_planted_fault_is_seen(tmp_path: Path, fault: str, kill: Kill, seen: str) -> None:
    """A box that loses a spec, trains twice or tears a record does not pass."""
    box = KillBox(tmp_path / "box", fault=fault)
    box.live([kill])
    assert [line for line in box.lost() if seen in line]
