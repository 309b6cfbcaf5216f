"""Kills while a schedule starts its run: the time becomes one run, whatever goes down when."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from figures import Figures
from kill_box import AtPoint, KillBox

from runner.clock import now
from runner.contract.schedules import Schedule, read_schedules, write_schedules
from runner.contract.states import State


class ScheduledKillBox(KillBox):
    """A box with a schedule that missed a time: it is due at once."""

    def fill(self) -> None:
        """Put a spec on schedule, three days ago."""
        (self.jobs / "scheduled").mkdir()
        text = 'model: m\ndata: nightly.jsonl\nschedule: "0 2 * * *"\n'
        (self.jobs / "nightly.jsonl").write_text("rows")
        (self.jobs / "scheduled" / "nightly.yaml").write_text(text)
        known = Schedule(job="nightly", line="0 2 * * *", done_until=now() - timedelta(days=3))
        self.outputs.private.mkdir()
        write_schedules(self.outputs, {"nightly.yaml": known})


@pytest.mark.parametrize(
    ("point", "what", "index"),
    [
        ("file written", "schedules.json", 1),
        ("file renamed", "schedules.json", 1),
        ("schedule noted", None, 1),
        ("answer written", "queued", 1),
        ("scheduled copy written", None, 1),
        ("run folder made", None, 1),
        ("claim recorded", None, 1),
        ("file renamed", "schedules.json", 2),
    ],
)
def test_a_time_becomes_one_run_whatever_goes_down_when(
    tmp_path: Path, point: str, what: str | None, index: int, figures: Figures
) -> None:
    """Never twice and never not at all: the run's id was written down before the run was made."""
    box = ScheduledKillBox(tmp_path / "box")
    box.live([AtPoint(side="daemon", point=point, what=what, index=index, victims="both")])
    assert box.kills == 1
    record = box.record()
    assert (record.trigger, record.state) == ("schedule", State.SUCCEEDED)
    (known,) = read_schedules(box.outputs).values()
    assert known.starting is None
    assert known.last is not None
    assert known.last.run_id == record.run_id
    assert box.lost() == []
    figures.count("kills as a schedule starts its run")
