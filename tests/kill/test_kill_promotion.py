"""Kills while `current` moves: it leads to a whole run always, and to the right one afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from figures import Figures
from kill_box import AtPoint, KillBox

from runner.contract.promotions import current_run, read_promotions


class PromotingKillBox(KillBox):
    """A box with one job whose spec asks for its adapter to be put into use."""

    def fill(self) -> None:
        """Drop it."""
        (self.jobs / "job0.jsonl").write_text("rows")
        (self.jobs / "job0.yaml").write_text(
            "model: m\ndata: job0.jsonl\npromote: {when: always}\n"
        )


@pytest.mark.parametrize(
    ("point", "what"),
    [
        ("promotion noted", None),
        ("current moved", None),
        ("answer written", "done"),
    ],
)
def test_what_is_in_use_is_right_whatever_goes_down_when(
    tmp_path: Path, point: str, what: str | None, figures: Figures
) -> None:
    """One line in the history, and the link leads where it says."""
    box = PromotingKillBox(tmp_path / "box")
    box.live([AtPoint(side="daemon", point=point, what=what, victims="both")])
    assert box.kills == 1
    record = box.record()
    assert [one.run_id for one in read_promotions(box.outputs, "job0")] == [record.run_id]
    assert os.readlink(box.outputs.current("job0")) == record.run_id
    assert box.lost() == []
    figures.count("kills as what is in use changes")


def test_a_decision_that_only_the_record_knows_is_carried_out(
    tmp_path: Path, figures: Figures
) -> None:
    """Killed once the record said promoted, and before the history did."""
    box = PromotingKillBox(tmp_path / "box")
    box.arm([])
    box.live([])
    last = max(n for n, (_, _, what) in enumerate(_records(box), start=1) if what == "run.json")
    again = PromotingKillBox(tmp_path / "again")
    kill = AtPoint(side="daemon", point="file renamed", what="run.json", index=last, victims="both")
    again.live([kill])
    assert again.kills == 1
    run_id = again.record().run_id
    assert current_run(again.outputs, "job0") == run_id
    assert os.readlink(again.outputs.current("job0")) == run_id
    assert again.lost() == []
    figures.count("kills as what is in use changes")


def _records(box: KillBox) -> list[tuple[str, str, str]]:
    """List the daemon's visits at which a record took its place."""
    return [one for one in box.all_visits() if one[1:] == ("file renamed", "run.json")]
