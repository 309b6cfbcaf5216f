"""A job that takes the whole box down each time rests, and the queue goes on without it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from invariants import records
from kill_box import AtPoint, KillBox

from runner.contract.layout import RunFolder
from runner.contract.record import RunRecord, write_record
from runner.contract.states import State


def job0(box: KillBox) -> tuple[RunFolder, RunRecord]:
    """Find the run that the machine went down under."""
    found, _ = records(box.outputs)
    ((run, record),) = [(run, record) for run, record in found if record.job == "job0"]
    return run, record


@pytest.mark.parametrize(
    ("point", "state"),
    [
        ("data copied", State.QUEUED),
        ("checkpoint begun", State.INTERRUPTED),
        ("adapter synced", State.INTERRUPTED),
    ],
)
def test_a_job_that_trips_the_power_supply_does_not_block_the_queue(
    tmp_path: Path, point: str, state: State
) -> None:
    """Cut off three times before it got further: it rests, the next job runs, and then it does."""
    box = KillBox(tmp_path / "box")
    # Before the other one, whichever of them is noticed first on a busy machine.
    box.drop_bytes("job0", "model: m\ndata: job0.jsonl\npriority: 1\n", state)
    content, _ = box.dropped["job0.yaml"]
    box.live([AtPoint(side="child", point=point, victims="both")] * 3)
    assert len(box.hits()) == 3
    assert box.lost() == []  # the other job has succeeded
    run, record = job0(box)
    assert record.falls is not None
    assert record.falls.times == 3
    (answer,) = (box.jobs / state.folder).glob("job0*.txt")
    said = "went down 3 times in a row while this job was at work"
    assert said in answer.read_text()
    assert "It is tried again after " in answer.read_text()
    status = (box.jobs / "STATUS.txt").read_text().partition("Now:")[0]
    assert "check its power supply and its cooling" in status

    earlier = record.falls.last_at - timedelta(minutes=11)
    write_record(run.record, record.but(falls=record.falls.model_copy(update={"last_at": earlier})))
    box.dropped["job0.yaml"] = (content, State.SUCCEEDED)
    box.live([])
    assert box.lost() == []
    assert job0(box)[1].falls is None
