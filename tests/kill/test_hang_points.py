"""Turns a child that stands still at a named step into a run that ends as if it had not."""

from __future__ import annotations

from pathlib import Path

import pytest
from figures import Figures
from kill_box import AtPoint, KillBox


@pytest.mark.parametrize(
    "point", ["checkpoint begun", "checkpoint synced", "checkpoint named", "checkpoint doomed"]
)
def test_a_child_that_hangs_loses_nothing(tmp_path: Path, point: str, figures: Figures) -> None:
    """It is asked where, which its log then says, ended, and resumed: no step lost or doubled."""
    box = KillBox(tmp_path / "box", jobs=1)
    box.arm([AtPoint(side="child", point=point, victims="hang")])
    with box.daemon(stall_seconds=2, hung_grace_seconds=0.5) as daemon:
        assert daemon.wait(timeout=box.life_seconds) is not None
    assert box.lost() == []
    (record,) = box.records()
    assert [attempt.outcome for attempt in record.attempts] == ["hung", "succeeded"]
    (log,) = box.outputs.root.glob("job0/2*/attempts/01-*/train.log")
    assert "in reached" in log.read_text()
    figures.count("hangs of the stand-in")


def test_a_stage_without_steps_that_hangs_is_ended_too(tmp_path: Path, figures: Figures) -> None:
    """Prepare, export and evaluate are given a fixed time: hours, but here seconds."""
    hurried = "import runner.daemon.stages.hang as planted; planted.OTHER_STAGES_FACTOR = 3.0"
    box = KillBox(tmp_path / "box", jobs=1, fault=hurried)
    box.arm([AtPoint(side="child", point="adapter begun", victims="hang")])
    with box.daemon(stall_seconds=2, hung_grace_seconds=0.5) as daemon:
        assert daemon.wait(timeout=box.life_seconds) is not None
    assert box.lost() == []
    (record,) = box.records()
    assert record.tries["export"] == 2
    figures.count("hangs of the stand-in")
