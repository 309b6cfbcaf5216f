"""The train stage as the daemon starts it: real child, real NF4, a real small model."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from runner.contract.batch import BatchPlan
from runner.contract.checkpoints import newest_verified, verified
from runner.contract.exit_codes import ExitCode
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.stage_io import (
    EvaluatePlan,
    EvaluateResult,
    ExportPlan,
    TrainPlan,
    TrainResult,
    read_message,
    write_message,
)

ROWS = 22  # the effective batch of 4 does not divide it: each epoch ends in a partial step
STEPS = 12  # two epochs of 6
SPEC = """\
model: tiny
data: rows.jsonl
training: {epochs: 2, effective_batch_size: 4, learning_rate: 1e-3, save_steps: 2}
"""


@pytest.fixture(scope="module")
def prepared(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepare stage's folder, made from real sentences that the model can learn."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    folder = tmp_path_factory.mktemp("prepared")
    tokenizer.save_pretrained(folder / "tokenizer")
    dice = random.Random(7)

    def row(index: int) -> dict[str, Any]:
        prompt = f"<|im_start|>user\nHow high is wall {index}?<|im_end|>\n<|im_start|>assistant\n"
        words = " and a half" * dice.randint(0, 12)
        answer = f"Wall {index} is {index * 3} feet{words} high.<|im_end|>"
        head, tail = tokenizer(prompt)["input_ids"], tokenizer(answer)["input_ids"]
        return {"input_ids": head + tail, "labels": [-100] * len(head) + tail, "row": index}

    rows = [row(index) for index in range(ROWS + 4)]
    Dataset.from_list(rows[:ROWS]).save_to_disk(str(folder / "train"))
    Dataset.from_list(rows[ROWS:]).save_to_disk(str(folder / "eval"))
    return folder


class Box:
    """A run folder with prepared rows, and the attempts made in it."""

    def __init__(self, root: Path, prepared: Path, models: Path) -> None:
        self.run = RunFolder(root / "job" / "20261123T221005Z-k3f9")
        self.run.root.mkdir(parents=True)
        self.run.spec.write_text(SPEC)
        self.run.prepared.symlink_to(prepared)
        self.models = models
        self.number = 0

    def start(self, batch: int, **wishes: Any) -> subprocess.Popen[bytes]:
        """Start the next attempt from the newest checkpoint, at 4 examples a step."""
        self.number += 1
        stage = self.stage()
        stage.root.mkdir(parents=True)
        command = wishes.pop("command", ["-m", "runner.training"])
        plan = TrainPlan(
            models_dir=str(self.models),
            device="cpu",
            compute="float32",  # rounding must not hide a difference
            number=self.number,
            batch_plan=BatchPlan(
                per_device_batch_size=batch, gradient_accumulation_steps=4 // batch
            ),
            **{"total_steps": STEPS, "resume_from": newest_verified(self.run.root), **wishes},
        )
        write_message(stage.plan, plan)
        with stage.log("train").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, *command, "train", str(stage.root)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def stage(self) -> StageFolder:
        """Give the newest attempt's folder."""
        return StageFolder(self.run.attempt(self.number))

    def train(self, batch: int, **wishes: Any) -> tuple[int, TrainResult]:
        """Run the next attempt to its end."""
        status = self.start(batch, **wishes).wait(200)
        assert self.stage().result.exists(), self.stage().log("train").read_text()[-3000:]
        return status, read_message(self.stage().result, TrainResult)

    def lines(self, number: int) -> list[dict[str, Any]]:
        """Read an attempt's metrics."""
        text = StageFolder(self.run.attempt(number)).metrics.read_text()
        return [json.loads(line) for line in text.splitlines()]

    def curve(self) -> list[dict[str, Any]]:
        """Every attempt's step lines within first_step..last_step."""
        steps = []
        for number in range(1, self.number + 1):
            result = read_message(StageFolder(self.run.attempt(number)).result, TrainResult)
            steps += [
                line
                for line in self.lines(number)
                if "loss" in line and (result.first_step or 0) <= line["step"] <= result.last_step
            ]
        return steps


@pytest.fixture
def box(tmp_path: Path, prepared: Path, tiny_model: Path) -> Box:
    """Give a box whose run is prepared and has no attempt yet."""
    return Box(tmp_path, prepared, tiny_model.parent)


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, prepared: Path, tiny_model: Path
) -> list[dict[str, Any]]:
    """The curve of a run that nothing happened to, at 4 × 1, without a probe."""
    box = Box(tmp_path_factory.mktemp("undisturbed"), prepared, tiny_model.parent)
    status, result = box.train(4, probe=False)
    assert (status, result.outcome) == (ExitCode.OK, "succeeded")
    assert result.best_eval_loss is not None
    assert verified(box.run.checkpoints / (result.best_checkpoint or ""))
    evals = [line["eval_loss"] for line in box.lines(1) if "eval_loss" in line]
    assert len(evals) == 2, "one held-out loss an epoch"
    assert evals[-1] < evals[0], "it learns"
    assert not list(box.run.checkpoints.rglob("*.bin"))
    assert len(list(box.run.checkpoints.iterdir())) <= 3
    return box.curve()


def assert_same_curve(curve: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """Hold that a curve reads 1..N once and is another's, as a user may rely on."""
    assert [line["step"] for line in curve] == list(range(1, STEPS + 1))
    for name in ("step", "epoch", "learning_rate", "rows", "tokens_seen"):
        assert [line[name] for line in curve] == [line[name] for line in other], name
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in curve] == pytest.approx(
            [line[name] for line in other], rel=1e-3
        ), name


def test_a_stop_and_a_smaller_plan_leave_the_curve_as_it_was(
    box: Box, undisturbed: list[dict[str, Any]]
) -> None:
    """SIGTERM leaves a checkpoint of the last finished step; the run goes on at any plan."""
    child = box.start(4)
    deadline = time.monotonic() + 120
    metrics = box.stage().metrics
    while not (metrics.exists() and '"step": 3' in metrics.read_text()):
        assert child.poll() is None, box.stage().log("train").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == ExitCode.INTERRUPTED
    result = read_message(box.stage().result, TrainResult)
    assert result.outcome == "interrupted"
    assert result.last_step >= 3
    assert result.checkpoint == newest_verified(box.run.root)
    status, result = box.train(2)
    assert (status, result.last_step) == (ExitCode.OK, STEPS)
    assert_same_curve(box.curve(), undisturbed)


OUT_OF_MEMORY_ONCE = """
import resource, sys, torch
import runner.training.callbacks as callbacks
import runner.training.memory as memory
from runner.training.__main__ import main

event, step = sys.argv.pop(1), int(sys.argv.pop(1))
before, release = getattr(callbacks.Conduct, event), memory.let_go

def squeeze(self, args, state, control, **more):
    before(self, args, state, control, **more)
    if state.global_step == step:
        # No more data pages: the allocator of the real stack fails, as on a full machine.
        resource.setrlimit(resource.RLIMIT_DATA, (1, resource.RLIM_INFINITY))
        torch.empty(64 * 2**20)

def let_go():
    release()
    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY,) * 2)

setattr(callbacks.Conduct, event, squeeze)
memory.let_go = let_go
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("where", "step", "batch"), [("on_substep_end", 4, 2), ("on_step_begin", 7, 4)]
)
def test_a_real_allocator_failure_costs_no_step(
    box: Box, undisturbed: list[dict[str, Any]], where: str, step: int, batch: int
) -> None:
    """Out of memory in the middle of a step: the last finished one is saved, and no curve bends."""
    child = box.start(batch, command=["-c", OUT_OF_MEMORY_ONCE, where, str(step)])
    assert child.wait(120) == ExitCode.OUT_OF_GPU_MEMORY, box.stage().log("train").read_text()
    result = read_message(box.stage().result, TrainResult)
    assert (result.outcome, result.last_step) == ("out of memory", step)
    assert result.checkpoint == f"step-{step:08d}" == newest_verified(box.run.root)
    status, result = box.train(batch // 2)
    assert (status, result.first_step, result.last_step) == (ExitCode.OK, step + 1, STEPS)
    assert_same_curve(box.curve(), undisturbed)


def test_what_is_exported_is_what_training_measured(box: Box) -> None:
    """The adapter folder loads onto the base model and reaches training's held-out loss again."""
    assert box.train(4, total_steps=6)[0] == ExitCode.OK
    trained = read_message(box.stage().result, TrainResult)
    models = {"models_dir": str(box.models), "device": "cpu", "compute": "float32"}
    plans = {
        "export": (box.run.export, ExportPlan(checkpoint=trained.best_checkpoint or "", **models)),
        "evaluate": (
            box.run.evaluation,
            EvaluatePlan(expected_eval_loss=trained.best_eval_loss, **models),
        ),
    }
    for name, (folder, plan) in plans.items():
        folder.mkdir()
        write_message(StageFolder(folder).plan, plan)
        command = [sys.executable, "-m", "runner.training", name, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == ExitCode.OK, done.stderr[-3000:]
    found = read_message(StageFolder(box.run.evaluation).result, EvaluateResult)
    assert found.eval_loss_after == pytest.approx(trained.best_eval_loss, rel=1e-3)
    assert (found.eval_loss_before or 0) > (found.eval_loss_after or 0)
    assert (box.run.adapter / "adapter_model.safetensors").is_file()
    assert not list(box.run.adapter.rglob("*.bin"))
    config = json.loads((box.run.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
