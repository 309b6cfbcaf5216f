"""Turns a job that takes the whole box down each time into one failed run; the queue goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from invariants import records
from kill_box import AtPoint, KillBox

from runner.contract.states import State


@pytest.mark.parametrize("point", ["data copied", "checkpoint begun", "adapter synced"])
def test_a_job_that_trips_the_power_supply_does_not_block_the_queue(
    tmp_path: Path, point: str
) -> None:
    """Cut off three times without a new durable step: failed, and the next job runs."""
    box = KillBox(tmp_path / "box")
    box.dropped["job0.yaml"] = (box.dropped["job0.yaml"][0], State.FAILED)
    box.live([AtPoint(side="child", point=point, victims="both")] * 3)
    assert len(box.hits()) == 3
    assert box.lost() == []
    found, _ = records(box.outputs)
    (error,) = [record.error for _, record in found if record.job == "job0"]
    assert error is not None
    assert "cut off 3 times" in error.message
