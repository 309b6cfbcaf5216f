"""The fast path in the train stage, on torch references of its kernels: the same run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from train_box import SPEC, Run, assert_same_curve
from trouble import around, give_back_when_let_go, run_out_of_memory

from runner.exit_codes import ExitCode


def eval_losses(run: Run) -> list[float]:
    """Give the held-out losses that count."""
    return [line["eval_loss"] for line in run.counted("eval_loss")]


@dataclass(frozen=True)
class FastPassRunsOut:
    """Memory runs out in the ``number``-th pass of a step, half way back through the layers."""

    step: int
    number: int = 1

    def __call__(self) -> None:
        """Arrange it."""
        from runner.training.fit.cut import CuttingTrainer
        from runner.training.kernels import layer
        from runner.training.kernels.fast_model import FastModel

        give_back_when_let_go()
        step, passes, layers = [0], [0], [0]

        def begins(trainer: Any, *_: Any) -> None:
            step[0] = trainer.state.global_step + 1
            passes[0] = 0

        def one_pass(*_: Any) -> None:
            passes[0] += 1
            layers[0] = 0

        def back(*_: Any) -> None:
            layers[0] += 1
            if (step[0], passes[0], layers[0]) == (self.step, self.number, 2):
                run_out_of_memory()

        around(CuttingTrainer, "training_step", begins)
        around(FastModel, "_pass", one_pass)
        around(layer, "_attention_back", back)


def test_the_same_curve(run: Run, undisturbed: Run) -> None:
    """Losses, gradient norms, rows and held-out losses are the plain path's."""
    status, result = run.train(4, fast=True)
    assert status == ExitCode.OK, run.log()
    assert result.metrics["path"] == "fast", run.log()
    assert undisturbed.result(1).metrics["path"] == "plain"
    assert_same_curve(run.curve(), undisturbed.curve())
    assert eval_losses(run) == pytest.approx(eval_losses(undisturbed), rel=1e-3)


def test_memory_runs_out_half_way_back(run: Run, undisturbed: Run) -> None:
    """In the middle of a pass: the next attempt cuts smaller passes, and no curve bends."""
    status, result = run.train(8, trouble=FastPassRunsOut(step=6), fast=True)
    assert (status, result.last_step) == (ExitCode.OUT_OF_GPU_MEMORY, 5), run.log()
    less = result.next_batch_plan
    assert less is not None
    assert less.layers_kept is not None
    assert less.tokens_per_pass is not None
    assert less.effective_batch_size == 8
    again = {"tokens_per_pass": less.tokens_per_pass, "layers_kept": 1}
    # Where it was cut there are two passes in a step: the second fails.
    trouble = FastPassRunsOut(step=9, number=2)
    status, result = run.train(8, trouble=trouble, fast=True, **again)
    assert (status, result.last_step) == (ExitCode.OUT_OF_GPU_MEMORY, 8), run.log()
    assert run.train(8, fast=True, probe=True, **again)[0] == ExitCode.OK, run.log()
    assert_same_curve(run.curve(), undisturbed.curve())
    assert eval_losses(run) == pytest.approx(eval_losses(undisturbed), rel=1e-3)


def test_what_it_does_not_know_trains_on_the_plain_path(
    tmp_path: Path, prepared: Path, small_models: Path
) -> None:
    """The log says why, and what it costs."""
    spec = SPEC.replace("training:", "lora: {dropout: 0.1}\ntraining:")
    run = Run(tmp_path, prepared, small_models, spec)
    status, result = run.train(8, fast=True, total_steps=1)
    assert (status, result.metrics["path"]) == (ExitCode.OK, "plain"), run.log()
    assert "Plain path: this model has lora.dropout above 0" in run.log()
    assert "two to three times the time" in run.log()
