"""Turns whole and torn checkpoints into the one that a run goes on from."""

from __future__ import annotations

import errno
import json
import os
import zipfile
from pathlib import Path

import pytest

from runner.clock import now
from runner.contract.batch import BatchPlan
from runner.contract.checkpoints import MANIFEST, Manifest, names, verified
from runner.contract.layout import RunFolder
from runner.contract.prune import KEEP_NEWEST, prune
from runner.contract.record import Attempt
from runner.daemon.stages.resume_point import TORN_KEPT, count_up_to, resume_point, torn_checkpoints
from runner.errors import StageError
from runner.training.fit.checkpoint import loads, seal

HEADER = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + b"abcd"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """An empty run folder."""
    run = RunFolder(tmp_path / "job" / "20261123T221005Z-k3f9")
    run.root.mkdir(parents=True)
    return run


def written(run: RunFolder, *, weights: bytes = WEIGHTS) -> Path:
    """Write what Trainer would."""
    folder = run.root / "work"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "trainer_state.json").write_text("{}")
    with zipfile.ZipFile(folder / "optimizer.pt", "w") as parts:
        parts.writestr("data.pkl", b"x" * 100)
    return folder


def sealed(run: RunFolder, *steps: int) -> None:
    """Seal good checkpoints."""
    for step in steps:
        seal(written(run), run.checkpoints, Manifest(step=step))


def rot(run: RunFolder, step: int) -> None:
    """Change a byte, as a failing disk does."""
    path = run.checkpoint(step) / "adapter_model.safetensors"
    path.write_bytes(WEIGHTS[:-1] + b"!")


def test_a_sealed_checkpoint_is_trusted(run: RunFolder) -> None:
    """Written beside, read back, named: from then on a run may go on from it."""
    sealed(run, 3)
    assert verified(run.checkpoint(3))
    assert not (run.root / "work").exists()


@pytest.mark.parametrize(
    "weights", [b"", WEIGHTS[:-1], WEIGHTS[:20], b"\0" * 40, b"\xff" * 40], ids=repr
)
def test_weights_that_do_not_load_are_never_named(run: RunFolder, weights: bytes) -> None:
    """What Trainer wrote and cannot be loaded becomes no checkpoint; the one before stands."""
    sealed(run, 3)
    with pytest.raises(StageError, match="read back"):
        seal(written(run, weights=weights), run.checkpoints, Manifest(step=6))
    assert names(run.checkpoints) == ["step-00000003"]


def test_a_torn_optimizer_state_is_seen(tmp_path: Path) -> None:
    """A byte that flipped inside torch's own file does not load."""
    path = tmp_path / "optimizer.pt"
    with zipfile.ZipFile(path, "w") as parts:
        parts.writestr("data.pkl", b"x" * 1000)
    assert loads(path)
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    assert not loads(path)


def test_the_newest_and_the_best_are_kept(run: RunFolder) -> None:
    """Few checkpoints stay: the newest, one in case that is damaged, and the best."""
    for step in (1, 2, 3, 4, 5):
        sealed(run, step)
        prune(run.checkpoints, best_step=1)
    assert names(run.checkpoints) == ["step-00000005", "step-00000004", "step-00000001"]
    assert KEEP_NEWEST == 2


def test_one_that_cannot_go_now_goes_later(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by SMB, while a program has a file of it open: the training goes on, the others go."""
    sealed(run, 1, 2, 3, 4)
    real, refused = os.rename, run.checkpoint(2)

    def rename(source: Path, target: Path) -> None:
        if source == refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(source))
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", rename)
        prune(run.checkpoints, best_step=None)
    assert names(run.checkpoints) == ["step-00000004", "step-00000003", "step-00000002"]
    prune(run.checkpoints, best_step=None)
    assert names(run.checkpoints) == ["step-00000004", "step-00000003"]


def test_a_torn_one_is_set_aside_and_the_one_before_is_used(run: RunFolder) -> None:
    """The run goes on from the last good one; the torn one is kept, and a person is told."""
    sealed(run, 3, 6)
    rot(run, 6)
    found = resume_point(run)
    assert (found.checkpoint, found.step, found.torn) == ("step-00000003", 3, ("step-00000006",))
    assert "goes on from step 3" in found.notes[0]
    (aside,) = torn_checkpoints(run)
    assert aside.startswith("torn-step-00000006-")
    assert (run.checkpoints / aside / MANIFEST).exists()
    assert resume_point(run).torn == ()


def test_torn_ones_do_not_fill_the_disk(run: RunFolder) -> None:
    """However many are torn, a few stay to be looked at; the last good one is untouched."""
    sealed(run, 1)
    for step in (2, 3, 4, 5):
        sealed(run, step)
        rot(run, step)
        assert resume_point(run).step == 1
    assert len(torn_checkpoints(run)) == TORN_KEPT
    assert torn_checkpoints(run)[0].startswith("torn-step-00000005-")
    assert verified(run.checkpoint(1))


def test_without_a_good_one_a_run_begins_anew(run: RunFolder) -> None:
    """No checkpoint that can be trusted: from the beginning, and it is said."""
    sealed(run, 3)
    os.unlink(run.checkpoint(3) / MANIFEST)
    found = resume_point(run)
    assert (found.checkpoint, found.step) == (None, 0)
    assert "from the beginning" in found.notes[0]


def test_steps_that_are_done_again_count_once() -> None:
    """When the newest checkpoint was lost after its attempt was closed, the curve stays 1..N."""
    plan = BatchPlan(per_device_batch_size=1, gradient_accumulation_steps=1)
    attempts = [
        Attempt(number=n, batch_plan=plan, started_at=now(), first_step=first, last_step=last)
        for n, first, last in [(1, 1, 3), (2, 4, 6), (3, 7, None)]
    ]
    assert [a.last_step for a in count_up_to(attempts, 5)] == [3, 5, None]
    assert [a.last_step for a in count_up_to(attempts, 0)] == [0, 0, None]
