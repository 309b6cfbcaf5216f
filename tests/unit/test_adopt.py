"""What an attempt has sealed becomes the run's, and what comes later does not."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from test_checkpoints import written

from runner.clock import now
from runner.contract.batch import BatchPlan
from runner.contract.checkpoints import (
    MANIFEST,
    Manifest,
    everywhere,
    names,
    read_manifest,
    sha256_of,
    verified,
)
from runner.contract.layout import RunFolder, StageFolder, checkpoint_name, new_token
from runner.contract.record import Attempt, RunRecord
from runner.contract.salvage import what_is_whole
from runner.contract.states import State
from runner.daemon.stages.adopt import adopt, drop_what_was_not_adopted
from runner.daemon.stages.resume_point import ResumePoint, export_point, resume_point
from runner.training.fit.checkpoint import seal, seal_again

PLAN = BatchPlan(per_device_batch_size=1, gradient_accumulation_steps=1)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """An empty run folder."""
    run = RunFolder(tmp_path / "job" / "20261123T221005Z-k3f9")
    run.root.mkdir(parents=True)
    return run


def attempt(run: RunFolder, number: int, *steps: int, best: int | None = None) -> StageFolder:
    """Make an attempt's folder with sealed checkpoints."""
    folder = StageFolder(run.attempt(number, new_token()))
    folder.root.mkdir(parents=True)
    for step in steps:
        seal(written(run), folder.checkpoints, Manifest(step=step, best_step=best))
    return folder


def record_of(run: RunFolder, *folders: StageFolder) -> RunRecord:
    """Make a record that knows these attempts."""
    attempts = [
        Attempt(
            number=number,
            token=folder.root.name.partition("-")[2],
            batch_plan=PLAN,
            started_at=now(),
        )
        for number, folder in enumerate(folders, 1)
    ]
    return RunRecord(
        job=run.job,
        run_id=run.run_id,
        state=State.TRAINING,
        file_name="job.yaml",
        created_at=now(),
        spec_sha256="",
        attempts=tuple(attempts),
    )


def test_the_runs_checkpoints_are_out_of_an_attempts_reach(run: RunFolder) -> None:
    """Nothing lies in the attempt's folder any more; what it seals afterwards stays there."""
    first = attempt(run, 1, 3, 6)
    adopt(run, first, sha256_of)
    assert names(run.checkpoints) == ["step-00000006", "step-00000003"]
    assert all(verified(run.checkpoints / name) for name in names(run.checkpoints))
    assert not first.checkpoints.exists()
    seal(written(run), first.checkpoints, Manifest(step=9))
    assert names(run.checkpoints) == ["step-00000006", "step-00000003"]


def test_few_of_all_attempts_stay_and_the_best(run: RunFolder) -> None:
    """The newest two and the one with the lowest loss, whichever attempt sealed them."""
    adopt(run, attempt(run, 1, 3, 6), sha256_of)
    adopt(run, attempt(run, 2, 9, 12, best=3), sha256_of)
    assert [int(name[-2:]) for name in names(run.checkpoints)] == [12, 9, 3]


def test_where_the_newest_cannot_be_read_all_stay(run: RunFolder) -> None:
    """Which one is the best stands in the newest: without it none is known to be of no use."""
    adopt(run, attempt(run, 1, 3, 6), sha256_of)
    second = attempt(run, 2, 9, 12)
    (second.checkpoints / checkpoint_name(12) / MANIFEST).write_text("{")
    adopt(run, second, sha256_of)
    assert len(names(run.checkpoints)) == 4


def test_adopting_goes_on_after_a_kill(run: RunFolder) -> None:
    """Half of it moved and the daemon dead: the next one moves the rest, and harms nothing."""
    first = attempt(run, 1, 3, 6)
    run.checkpoints.mkdir()
    (first.checkpoints / checkpoint_name(3)).rename(run.checkpoint(3))
    for _ in range(2):
        adopt(run, first, sha256_of)
        assert names(run.checkpoints) == ["step-00000006", "step-00000003"]


def test_a_step_sealed_anew_replaces_the_old_one_only_if_it_is_whole(run: RunFolder) -> None:
    """A held-out loss that was owed is noted in a second checkpoint of the same step."""
    adopt(run, attempt(run, 1, 6), sha256_of)
    torn = attempt(run, 2, 6, best=6)
    (torn.checkpoints / checkpoint_name(6) / "adapter_model.safetensors").write_bytes(b"?")
    adopt(run, torn, sha256_of)
    assert read_manifest(run.checkpoint(6)).best_step is None
    adopt(run, attempt(run, 3, 6, best=6), sha256_of)
    assert read_manifest(run.checkpoint(6)).best_step == 6
    assert verified(run.checkpoint(6))


def test_what_comes_late_goes_before_the_next_stage(run: RunFolder) -> None:
    """Checkpoints of a process that outlived its attempt, and folders that no record knows."""
    first, second = attempt(run, 1), attempt(run, 2)
    record = record_of(run, first, second)
    seal(written(run), first.checkpoints, Manifest(step=9))
    first.metrics.write_text(json.dumps({"step": 1, "loss": 1.0}))
    attempt(run, 2, 9)  # a daemon was killed before its record was written
    drop_what_was_not_adopted(run, record)
    assert run.attempt_folders() == [first.root, second.root]
    assert not first.checkpoints.exists()
    assert first.metrics.exists()


def test_without_a_record_sealed_ones_are_found_too(run: RunFolder) -> None:
    """A person whose record is damaged is told of the newest that is whole, wherever it lies."""
    adopt(run, attempt(run, 1, 3), sha256_of)
    second = attempt(run, 2, 6)
    assert [path.name for path in everywhere(run)] == ["step-00000006", "step-00000003"]
    where = f"attempts/{second.root.name}/checkpoints/step-00000006/"
    assert where in what_is_whole(run)


def test_folders_of_older_runners_are_attempts_too(run: RunFolder) -> None:
    """They have no token; their order is that of their numbers."""
    for name in ("10", "02-3f9c22ab", "01", "100-0a", "stray", ".tmp-0123456789ab"):
        (run.attempts / name).mkdir(parents=True)
    found = [folder.name for folder in run.attempt_folders()]
    assert found == ["01", "02-3f9c22ab", "10", "100-0a"]
    assert run.attempt(1) == run.attempts / "01"


def test_a_checkpoint_of_an_earlier_attempt_is_sealed_again_and_not_touched(run: RunFolder) -> None:
    """An owed held-out loss goes into a second seal of its step; both are whole."""
    adopt(run, attempt(run, 1, 6), sha256_of)
    second = attempt(run, 2)
    seal_again(run.checkpoint(6), second.checkpoints, Manifest(step=6, eval_loss=1.5))
    assert read_manifest(run.checkpoint(6)).eval_loss is None
    assert all(verified(path) for path in (run.checkpoint(6), second.checkpoints / "step-00000006"))
    seal_again(
        second.checkpoints / "step-00000006", second.checkpoints, Manifest(step=6, best_step=6)
    )
    adopt(run, second, sha256_of)
    assert read_manifest(run.checkpoint(6)).best_step == 6
    assert verified(run.checkpoint(6))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE])
def test_what_cannot_be_listed_is_not_taken_for_nothing(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A share that is away for a moment costs a moment: no step is left behind, none done again."""
    folder = attempt(run, 1, 1, 2)
    listdir, away = os.listdir, [folder.checkpoints]

    def failing(path: Path) -> list[str]:
        if path in away:
            raise OSError(number, os.strerror(number))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", failing)
    with pytest.raises(OSError, match=os.strerror(number)):
        adopt(run, folder, sha256_of)
    away.clear()
    adopt(run, folder, sha256_of)
    assert names(run.checkpoints) == ["step-00000002", "step-00000001"]
    away.append(run.checkpoints)
    for find in (lambda: resume_point(run), lambda: export_point(run, "step-00000003")):
        with pytest.raises(OSError, match=os.strerror(number)):
            find()
    away.clear()
    assert resume_point(run) == ResumePoint(checkpoint="step-00000002")


def test_a_folder_that_is_not_there_holds_no_checkpoint(run: RunFolder) -> None:
    """Neither does a file in its place."""
    assert resume_point(run).step == 0
    run.checkpoints.write_text("")
    assert resume_point(run).step == 0
