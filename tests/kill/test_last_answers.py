"""Turns a kill just when a run's end is shown into the proof that its answer still comes."""

from __future__ import annotations

from pathlib import Path

import pytest
from daemon_box import wait_until
from fast_stage import SLOW
from figures import Figures
from kill_box import AtPoint, KillBox

from runner.contract.states import State


@pytest.mark.parametrize("point", ["answer written", "spec shown"])
def test_a_run_that_has_ended_is_answered_after_a_kill(
    tmp_path: Path, point: str, figures: Figures
) -> None:
    """A spec that lies in done/ has its answer there, whenever the box went down."""
    box = KillBox(tmp_path / "box", jobs=1)
    box.live([AtPoint(side="daemon", point=point, what="done", victims="both")])
    assert box.kills == 1
    assert box.lost() == []
    figures.count("kills as the end of a run is shown")


@pytest.mark.parametrize(
    ("point", "what"),
    [
        ("file renamed", "run.json"),
        ("answer written", "queued"),
        ("answer written", "cancelled"),
        ("spec shown", "cancelled"),
    ],
)
def test_a_deleted_spec_comes_back_with_its_answer_after_a_kill(
    tmp_path: Path, point: str, what: str, figures: Figures
) -> None:
    """Whoever cancelled by deleting finds the spec and its answer in cancelled/."""
    box = KillBox(tmp_path / "box", jobs=1)
    content, _ = box.dropped["job0.yaml"]
    box.dropped["job0.yaml"] = (content, State.CANCELLED)
    (box.root / SLOW).touch()
    with box.watching(rescan_seconds=0.2) as daemon:
        (spec,) = wait_until(lambda: list((box.jobs / "running").glob("*.yaml")))
        spec.unlink()
        box.arm([AtPoint(side="daemon", point=point, what=what, victims="both")])
        daemon.wait(timeout=box.life_seconds)
    assert box.hits()
    assert box.in_state(State.CANCELLED)
    box.live([])
    assert box.lost() == []
    figures.count("kills as the end of a run is shown")
