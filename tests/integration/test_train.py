"""The train stage as the daemon starts it: what it leaves, and how it ends early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_box import wait_until
from train_box import STEPS, Run, assert_same_curve, start
from trouble import DrawsAtRandom, NotANumber

from runner.contract.checkpoints import newest_verified, sha256_of, verified
from runner.contract.layout import StageFolder
from runner.contract.stage_io import (
    EvaluatePlan,
    EvaluateResult,
    ExportPlan,
    TrainResult,
    read_message,
    write_message,
)
from runner.daemon.stages.adopt import adopt
from runner.exit_codes import ExitCode


def test_a_run_learns_and_keeps_what_can_be_trusted(undisturbed: Run) -> None:
    """One held-out loss an epoch, each lower; few checkpoints, each whole, no pickles."""
    result = undisturbed.result(1)
    evals = [line["eval_loss"] for line in undisturbed.lines(1) if "eval_loss" in line]
    assert len(evals) == 3
    assert evals == sorted(evals, reverse=True)
    assert result.best_eval_loss == evals[-1]
    checkpoints = list(undisturbed.run.checkpoints.iterdir())
    assert undisturbed.run.checkpoints / str(result.best_checkpoint) in checkpoints
    assert len(checkpoints) <= 3
    assert all(verified(checkpoint) for checkpoint in checkpoints)
    assert not list(undisturbed.run.checkpoints.rglob("*.bin"))


def test_a_stop_and_a_smaller_plan_leave_the_curve_as_it_was(run: Run, undisturbed: Run) -> None:
    """SIGTERM leaves a checkpoint of the last finished step; the run goes on at any plan."""
    attempt = run.start(8)
    metrics = attempt.stage.metrics
    wait_until(
        lambda: (metrics.exists() and '"step": 3' in metrics.read_text()) or not attempt.is_alive(),
        seconds=120,
    )
    os.kill(attempt.pid, signal.SIGTERM)
    assert attempt.wait() == ExitCode.INTERRUPTED, attempt.log()
    result = attempt.result()
    assert result.outcome == "interrupted"
    assert result.last_step >= 3
    assert result.checkpoint == newest_verified(run.run.checkpoints)
    status, result = run.train(4)
    assert (status, result.last_step) == (ExitCode.OK, STEPS)
    assert_same_curve(run.curve(), undisturbed.curve())


def test_a_time_limit_ends_a_run_with_its_best_adapter(run: Run, undisturbed: Run) -> None:
    """When the time is up, the step is finished, measured and kept; the result says how far."""
    status, result = run.train(8, seconds_left=0.0)
    assert (status, result.outcome, result.last_step) == (ExitCode.OK, "succeeded", 1)
    assert (
        result.best_checkpoint == run.run.checkpoint(1).name == newest_verified(run.run.checkpoints)
    )
    assert result.best_eval_loss is not None
    assert "after step 1 of 12" in " ".join(result.shortfalls)
    assert run.curve()[0]["loss"] == undisturbed.curve()[0]["loss"]


def test_a_run_that_diverges_ends_with_a_reason(
    tmp_path: Path, prepared: Path, small_models: Path
) -> None:
    """A loss worse than guessing ends the run, and its weights do not become a checkpoint."""
    spec = (
        "model: small\ndata: rows.jsonl\n"
        "training: {epochs: 3, effective_batch_size: 8, learning_rate: 1.0, max_grad_norm: 1000}\n"
    )
    run = Run(tmp_path, prepared, small_models, spec)
    status, result = run.train(8)
    assert (status, result.outcome) == (ExitCode.DIVERGED, "diverged")
    assert result.error is not None
    assert "learning_rate" in str(result.error.advice)
    last = max(line["step"] for line in run.lines(1))
    assert result.last_step < last <= STEPS


def test_a_loss_that_is_no_number_ends_the_run(run: Run) -> None:
    """NaN ends it at that step, with its own outcome; the newest checkpoint is from before."""
    status, result = run.train(8, trouble=NotANumber(step=3))
    assert (status, result.outcome) == (ExitCode.DIVERGED, "diverged")
    assert [line["step"] for line in run.lines(1)][-1] == 3
    assert newest_verified(run.run.checkpoints) == run.run.checkpoint(2).name


def test_a_model_that_would_learn_something_else_ends_before_its_first_step(run: Run) -> None:
    """The train stage compares one row with the model's own logits, and refuses what differs."""
    attempt = run.start(8, trouble=DrawsAtRandom())
    assert attempt.wait() == ExitCode.BAD_INPUT, attempt.log()
    told = json.loads(run.stage().result.read_bytes())["error"]["message"]
    assert "this model does not train right here: on one row the loss is" in told
    assert not run.stage().metrics.exists() or not run.lines(1)


def test_the_best_checkpoint_wins(tmp_path: Path, prepared: Path, small_models: Path) -> None:
    """Where the held-out loss rises again, the checkpoint of its lowest point is kept and named."""
    spec = (
        "model: small\ndata: rows.jsonl\n"
        "training: {epochs: 3, effective_batch_size: 8, learning_rate: 0.05, eval_steps: 1}\n"
    )
    run = Run(tmp_path, prepared, small_models, spec)
    status, result = run.train(8, total_steps=6)
    evals = {line["step"]: line["eval_loss"] for line in run.lines(1) if "eval_loss" in line}
    best = min(evals, key=lambda step: evals[step])
    assert (status, len(evals)) == (ExitCode.OK, 6)
    assert best < 4, "the lowest point must lie behind the newest checkpoints"
    assert result.best_eval_loss == evals[best]
    assert result.best_checkpoint == run.run.checkpoint(best).name
    assert verified(run.run.checkpoint(best))


def test_what_is_exported_is_what_training_measured(run: Run) -> None:
    """The adapter folder, loaded onto its base as a user would, reaches training's loss again."""
    models = {"models_dir": str(run.models), "device": "cpu", "compute": "float32"}
    command = [sys.executable, "-m", "runner.training", "train"]  # as the daemon does
    command.append(str(run.plan(8, total_steps=4).root))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.OK, done.stderr[-3000:]
    adopt(run.run, run.stage(), sha256_of)
    trained = read_message(run.stage().result, TrainResult)
    plans = {
        "export": (run.run.export, ExportPlan(checkpoint=trained.best_checkpoint or "", **models)),
        "evaluate": (
            run.run.evaluation,
            EvaluatePlan(expected_eval_loss=trained.best_eval_loss, **models),
        ),
    }
    for name, (folder, plan) in plans.items():
        folder.mkdir()
        write_message(StageFolder(folder).plan, plan)
        child = start(name, StageFolder(folder))
        assert child.wait() == ExitCode.OK, StageFolder(folder).log(name).read_text()[-3000:]
    found = read_message(StageFolder(run.run.evaluation).result, EvaluateResult)
    assert found.eval_loss_after == pytest.approx(trained.best_eval_loss, rel=1e-3)
    assert (found.eval_loss_before or 0) > (found.eval_loss_after or 0)
    rows = json.loads((run.run.evaluation / "losses.json").read_text())
    assert (found.eval_rows, found.rows_changed, found.adapter_is_zero) == (4, 4, False)
    assert sum(row["tokens"] for row in rows) == found.eval_tokens
    for name, loss in (("before", found.eval_loss_before), ("after", found.eval_loss_after)):
        total = sum(row[name] * row["tokens"] for row in rows)
        assert total / found.eval_tokens == pytest.approx(loss, rel=1e-5)
    change = (found.eval_loss_after or 0) - (found.eval_loss_before or 0)
    assert (found.change_low or 0) < change < (found.change_high or 0)
    assert (run.run.adapter / "adapter_model.safetensors").is_file()
    assert not list(run.run.adapter.rglob("*.bin"))
    config = json.loads((run.run.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "small"


def test_an_adapter_of_zeros_is_known_by_its_weights(tmp_path: Path) -> None:
    """Only B matrices count: A is drawn at random and says nothing; one number in a B is enough."""
    import torch
    from safetensors.torch import save_file

    from runner.training.evaluate.evaluate import adapter_is_zero

    names = [f"layers.{n}.q_proj.lora_{which}.weight" for n in (0, 1) for which in "AB"]
    tensors = {name: torch.full((2, 3), float("lora_A" in name)) for name in names}
    file = tmp_path / "adapter_model.safetensors"
    save_file(tensors, file)
    assert adapter_is_zero(tmp_path) is True
    tensors["layers.1.q_proj.lora_B.weight"][1, 2] = 1e-30
    save_file(tensors, file)
    assert adapter_is_zero(tmp_path) is False
    save_file({"layers.0.other": torch.zeros(2)}, file)
    assert adapter_is_zero(tmp_path) is None
