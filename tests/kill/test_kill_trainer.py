"""Turns SIGKILLs of the real trainer into the proof that its curve and adapter do not show them."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from daemon_box import attempt_of
from figures import Figures
from invariants import curve_of
from kill_box import AtPoint
from system_calls import COUNTS, TRACES, judge_all, kinds, needs_strace, traced
from trainer_box import TrainerBox

KILLS_WANTED = 20
KILLS_PER_RUN = 7
HANG_FLOOR_SECONDS = 20.0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> TrainerBox:
    """A run that nobody kills, its system calls traced where that is possible."""
    box = TrainerBox(tmp_path_factory.mktemp("undisturbed") / "box", tiny_model)
    if shutil.which("strace") is None:
        box.killed_run(random.Random(0), 0)
    else:
        traced(box)
    return box


@pytest.mark.timeout(3600)
def test_kills_of_the_real_trainer_leave_no_trace(
    tmp_path: Path, tiny_model: Path, undisturbed: TrainerBox, share: float, figures: Figures
) -> None:
    """Daemon, trainer or both killed again and again: the losses of an undisturbed run."""
    found = undisturbed.newest()
    assert found is not None
    reference = curve_of(*found)
    assert undisturbed.trainer_lost(reference) == []
    wanted = max(1, round(KILLS_WANTED * share))
    kills, runs, lost, apart = 0, 0, [], 0.0
    while kills < wanted:
        runs += 1
        box = TrainerBox(tmp_path / f"killed{runs}", tiny_model)
        box.killed_run(random.Random(runs), min(KILLS_PER_RUN, wanted - kills))
        kills += box.kills
        lost += [f"run {runs}: {line}" for line in box.trainer_lost(reference)]
        assert not lost, "\n".join(lost)
        found = box.newest()
        assert found is not None
        pairs = zip(curve_of(*found), reference, strict=True)
        apart = max(apart, *(abs(a[1] - b[1]) for a, b in pairs))
    figures.count("kills of the real trainer", kills)
    figures.tell("real trainer: largest difference of a loss", f"{apart:.1e}")


@needs_strace
@pytest.mark.timeout(600)
def test_the_real_stages_sync_as_well(undisturbed: TrainerBox, figures: Figures) -> None:
    """What Trainer and the libraries write is synced before it is named a checkpoint or adapter."""
    renamed, faults = judge_all(undisturbed.root / TRACES, COUNTS)
    assert {"run.json", "result.json", "adapter", "step-N"} <= kinds(renamed)
    assert not faults, "\n".join(faults)
    figures.count("fsync: renames judged, real stages", len(renamed))


@pytest.mark.timeout(900)
def test_a_hang_of_the_real_trainer_leaves_no_trace(
    tmp_path: Path, tiny_model: Path, undisturbed: TrainerBox, figures: Figures
) -> None:
    """Asked for its stack, ended and resumed: the losses of an undisturbed run."""
    found = undisturbed.newest()
    assert found is not None
    box = TrainerBox(tmp_path / "hung", tiny_model)
    box.arm([AtPoint(side="child", point="checkpoint begun", index=3, victims="hang")])
    with box.daemon(stall_seconds=HANG_FLOOR_SECONDS, hung_grace_seconds=1) as daemon:
        daemon.wait(timeout=box.life_seconds)
    assert box.trainer_lost(curve_of(*found)) == []
    hung = box.newest()
    assert hung is not None
    assert [attempt.outcome for attempt in hung[1].attempts] == ["hung", "succeeded"]
    assert "in seal" in (attempt_of(hung[0], 1) / "train.log").read_text()
    figures.count("hangs of the real trainer")
