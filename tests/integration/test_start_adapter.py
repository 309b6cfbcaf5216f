"""A run that starts from another's adapter: its first weights are those, as the disk has them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from train_box import SPEC, Run

from runner.contract.checkpoints import newest_verified
from runner.contract.stage_io import StageFailure, read_message
from runner.exit_codes import ExitCode

WEIGHTS = "adapter_model.safetensors"
STILL = "learning_rate: 1e-9"
"""So small a rate that one step leaves the weights where they were, to seven digits."""


def newest(run: Run) -> Path:
    """Find the newest checkpoint of a run: PEFT's own form of an adapter."""
    name = newest_verified(run.run.checkpoints)
    assert name is not None
    return run.run.checkpoint(int(name.rpartition("-")[2]))


def test_the_first_weights_are_the_other_adapters(
    tmp_path: Path, undisturbed: Run, prepared: Path, small_models: Path
) -> None:
    """After a step that moves nothing they are what was read; a fresh start has others."""
    before = load_file(newest(undisturbed) / WEIGHTS)
    spec = SPEC.replace("learning_rate: 1e-3", STILL).replace("epochs: 3", "max_steps: 1")
    found = {}
    for name, adapter in (("on", str(newest(undisturbed))), ("fresh", None)):
        run = Run(tmp_path / name, prepared, small_models, spec=spec)
        status, result = run.train(8, total_steps=1, start_adapter=adapter)
        assert (status, result.outcome) == (ExitCode.OK, "succeeded")
        found[name] = load_file(newest(run) / WEIGHTS)
    assert found["on"].keys() == before.keys()
    far = {key: float((found["on"][key] - before[key]).abs().max()) for key in before}
    assert max(far.values()) < 1e-6
    assert not all(torch.allclose(found["fresh"][key], before[key], atol=1e-3) for key in before)


def test_another_shape_is_refused_with_both(
    tmp_path: Path, undisturbed: Run, prepared: Path, small_models: Path
) -> None:
    """Rank 16 there, 4 here: the sentence has both, and nothing is trained."""
    run = Run(tmp_path / "other", prepared, small_models, spec=f"{SPEC}lora: {{r: 4}}\n")
    attempt = run.start(8, start_adapter=str(newest(undisturbed)))
    assert attempt.wait() == ExitCode.BAD_INPUT
    message = read_message(run.stage().result, StageFailure).error.message
    assert "16×" in message
    assert "4×" in message
