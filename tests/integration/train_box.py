"""Turns prepared rows into runs of the train stage: each attempt a real child, its ends compared.

The children are forked from one process that has imported the stack and done nothing else, because
the imports take longer than the training. `test_train` starts one as the daemon does.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from runner.contract.batch import BatchPlan
from runner.contract.checkpoints import newest_verified, sha256_of
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.stage_io import TrainPlan, TrainResult, read_message, write_message
from runner.daemon.stages.adopt import adopt

ROWS = 29  # no batch divides it: each epoch ends in a partial step
EFFECTIVE = 8
EPOCHS = 3
STEPS = 12  # three epochs of four
SPEC = """\
model: small
data: rows.jsonl
training: {epochs: 3, effective_batch_size: 8, learning_rate: 1e-3, save_steps: 2, eval_steps: 4}
"""
_SECONDS = 600.0
"""Longer than any attempt here takes on a busy machine, and than what the first one waits for: that
the stack is imported, which took 103 s beside twelve busy loops on two cores."""

_warm = multiprocessing.get_context("forkserver")
_warm.set_forkserver_preload(
    [
        "trl",
        "peft",
        "bitsandbytes",
        "datasets",
        "runner.spec.read_spec",
        "runner.training.fit.callbacks",
        "runner.training.fit.train",
    ]
)

Trouble = Callable[[], None]
"""Called in the child before the stage starts; arranges what will go wrong."""


def _be_the_child(arguments: list[str], log: str, trouble: Trouble | None) -> None:
    """Be the child: what `python -m runner.training` does, after an arranged trouble."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    import torch

    torch.set_num_threads(1)
    if trouble is not None:
        trouble()
    from runner.training.__main__ import main

    sys.exit(main(arguments))


class Run:
    """A run folder with prepared rows, and the attempts made in it."""

    def __init__(self, root: Path, prepared: Path, models: Path, spec: str = SPEC) -> None:
        self.run = RunFolder(root / "job" / "20261123T221005Z-k3f9")
        self.run.root.mkdir(parents=True)
        self.run.spec.write_text(spec)
        self.run.prepared.symlink_to(prepared)
        self.models = models
        self.number = 0

    def plan(self, batch: int, effective: int = EFFECTIVE, **wishes: Any) -> StageFolder:
        """Write the plan of the next attempt, from the newest checkpoint."""
        self.number += 1
        stage = self.stage()
        stage.root.mkdir(parents=True)
        how = {
            name: wishes.pop(name)
            for name in (
                "activation_checkpointing",
                "activation_offloading",
                "tokens_per_pass",
                "layers_kept",
            )
            if name in wishes
        }
        plan = TrainPlan(
            models_dir=str(self.models),
            device="cpu",
            compute="float32",
            number=self.number,
            batch_plan=BatchPlan(
                per_device_batch_size=batch, gradient_accumulation_steps=effective // batch, **how
            ),
            **{
                "total_steps": STEPS,
                "resume_from": newest_verified(self.run.checkpoints),
                **wishes,
            },
        )
        write_message(stage.plan, plan)
        return stage

    def start(self, batch: int, *, trouble: Trouble | None = None, **plan: Any) -> Attempt:
        """Start the next attempt."""
        return start("train", self.plan(batch, **plan), trouble)

    def stage(self) -> StageFolder:
        """Give the newest attempt's folder."""
        return StageFolder(self.run.attempt(self.number))

    def train(self, batch: int, **more: Any) -> tuple[int, TrainResult]:
        """Run the next attempt to its end; what its result says is what the daemon would see."""
        attempt = self.start(batch, **more)
        return attempt.wait(), attempt.result()

    def log(self) -> str:
        """Give the end of the newest attempt's log."""
        return self.stage().log("train").read_text()[-3000:]

    def result(self, number: int) -> TrainResult:
        """Read an attempt's result."""
        return read_message(StageFolder(self.run.attempt(number)).result, TrainResult)

    def lines(self, number: int) -> list[dict[str, Any]]:
        """Read an attempt's metrics."""
        text = StageFolder(self.run.attempt(number)).metrics.read_text()
        return [json.loads(line) for line in text.splitlines()]

    def counted(self, what: str) -> list[dict[str, Any]]:
        """Give every attempt's lines that tell ``what``, within first_step..last_step.

        A held-out loss that was owed belongs to the step before the attempt's first.
        """
        owed = what == "eval_loss"
        found = []
        for number in range(1, self.number + 1):
            result = self.result(number)
            first = (result.first_step or result.last_step + 1) - owed
            found += [
                line
                for line in self.lines(number)
                if what in line and first <= line["step"] <= result.last_step
            ]
        return found

    def curve(self) -> list[dict[str, Any]]:
        """Give the steps that count, of all attempts."""
        return self.counted("loss")


def start(name: str, stage: StageFolder, trouble: Trouble | None = None) -> Attempt:
    """Start a stage whose plan is written."""
    child = _warm.Process(
        target=_be_the_child, args=([name, str(stage.root)], str(stage.log(name)), trouble)
    )
    child.start()
    return Attempt(child, stage)


def in_a_child(function: Callable[..., None], *arguments: str) -> None:
    """Call a function of a test module where the stack is imported already."""
    child = _warm.Process(target=function, args=arguments)
    child.start()
    child.join(_SECONDS)
    assert child.exitcode == 0


class Attempt:
    """A child."""

    def __init__(self, child: ForkServerProcess, stage: StageFolder) -> None:
        self.child, self.stage = child, stage

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.child.pid is not None
        return self.child.pid

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self.child.is_alive()

    def wait(self) -> int:
        """Give the exit status; negative: the signal that ended it."""
        self.child.join(_SECONDS)
        status = self.child.exitcode
        assert status is not None, "it has not ended"
        if self.stage.root.parent.name == "attempts":  # what the daemon does at its end
            adopt(RunFolder(self.stage.root.parents[1]), self.stage, sha256_of)
        return status

    def log(self) -> str:
        """Give the end of its log."""
        return self.stage.log("train").read_text()[-3000:]

    def result(self) -> TrainResult:
        """Read its result."""
        assert self.stage.result.exists(), self.log()
        return read_message(self.stage.result, TrainResult)


def assert_same_curve(
    curve: list[dict[str, Any]], other: list[dict[str, Any]], *, rel: float = 1e-3
) -> None:
    """Hold that a curve reads 1..N once and is another's, as a user may rely on."""
    assert [line["step"] for line in curve] == list(range(1, len(other) + 1))
    for name in ("step", "epoch", "learning_rate", "rows", "tokens_seen"):
        assert [line[name] for line in curve] == [line[name] for line in other], name
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in curve] == pytest.approx(
            [line[name] for line in other], rel=rel
        ), name
