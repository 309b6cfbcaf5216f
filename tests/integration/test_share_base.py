"""A base that two cards share: every number to the last bit as where each has all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ranks_box import Ranks
from train_box import SPEC, Run

from runner.exit_codes import ExitCode
from runner.training.fit.share_base import away

pytestmark = pytest.mark.long


def test_a_shared_base_changes_no_bit(tmp_path: Path, prepared: Path, small_models: Path) -> None:
    """Losses, norms and held-out losses are equal, not close; the adapters' files too."""
    runs = []
    for shard in (False, True):
        run = Run(tmp_path / str(shard), prepared, small_models, SPEC + "method: qlora\n")
        plan = {"fast": True, "shard_base": shard, "total_steps": 6, "probe": True}
        status, result = run.train(8, ranks=2, trouble=Ranks(), **plan)
        assert (status, result.metrics["path"]) == (ExitCode.OK, "fast"), run.log()
        runs.append(run)
    names = ("rows", "loss", "grad_norm", "eval_loss")
    found, wanted = ([[line.get(name) for name in names] for line in run.lines(1)] for run in runs)
    assert found == wanted
    weights = [(run.run.checkpoint(6) / "adapter_model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]


def test_the_plain_path_refuses(tmp_path: Path, prepared: Path, small_models: Path) -> None:
    """It says so before the first step, and what to do instead."""
    run = Run(tmp_path, prepared, small_models, SPEC + "method: qlora\n")
    attempt = run.start(8, ranks=2, fast=False, shard_base=True, trouble=Ranks())
    assert attempt.wait() == ExitCode.BAD_INPUT, attempt.log()
    assert "cannot share this base model" in attempt.stage.result.read_text()


def test_layers_are_spread_evenly() -> None:
    """Of two ranks every second layer waits on the host, of four three in four; of one none."""
    assert away(5, 1) == []
    assert away(5, 2) == [1, 3]
    assert away(8, 4) == [1, 2, 3, 5, 6, 7]
