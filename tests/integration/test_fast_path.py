"""The fast path in the train stage, on torch references of its kernels: the same run."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from train_box import SPEC, Run, assert_same_curve
from trouble import (
    KernelFails,
    MemoryRunsOut,
    RoomFor,
    around,
    give_back_when_let_go,
    run_out_of_memory,
)

from runner.contract.batch import BatchPlan
from runner.contract.stage_io import PrepareResult, SmallerPlan, read_message, write_message
from runner.exit_codes import ExitCode


def eval_losses(run: Run) -> list[float]:
    """Give the held-out losses that count."""
    return [line["eval_loss"] for line in run.counted("eval_loss")]


@dataclass(frozen=True)
class FastPassRunsOut:
    """Memory runs out in the ``number``-th pass of a step, half way back through the layers."""

    step: int
    number: int = 1
    lifted: ClassVar = False
    """What the allocator was confined to, and there is room from then on."""

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
            here = (step[0], passes[0], layers[0]) == (self.step, self.number, 2)
            if here and not FastPassRunsOut.lifted:
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


@dataclass(frozen=True)
class ConfinedPassRunsOut:
    """The same in every step up to the one that lifts what the allocator is confined to."""

    step: int
    saves: bool = True

    def __call__(self) -> None:
        """Arrange it; a processor has no allocator that could be confined."""
        from runner.training.fit.cut import CuttingTrainer
        from runner.training.fit.memory import Meter

        def lift(meter: Meter) -> bool:
            FastPassRunsOut.lifted, first = True, not FastPassRunsOut.lifted
            return first

        def save(trainer: Any, *_: Any, **__: Any) -> None:
            if not self.saves and trainer.state.global_step == self.step - 1:
                raise OSError("no room")

        Meter.lift = lift  # type: ignore[method-assign]
        FastPassRunsOut(self.step)()
        around(CuttingTrainer, "_save_checkpoint", save)


@pytest.mark.parametrize("step", [1, 6])
def test_memory_that_a_forecast_was_confined_to_costs_no_attempt(
    step: int, run: Run, undisturbed: Run
) -> None:
    """Half way back through a pass: the step is made again by the same plan, and no curve bends."""
    trouble = ConfinedPassRunsOut(step)
    status, result = run.train(8, trouble=trouble, fast=True, probe=step == 1)
    assert (status, result.metrics["path"]) == (ExitCode.OK, "fast"), run.log()
    assert result.metrics["plan_changes"] == []
    assert not run.stage().smaller_plan.exists()
    assert_same_curve(run.curve(), undisturbed.curve())
    assert eval_losses(run) == pytest.approx(eval_losses(undisturbed), rel=1e-3)


def test_memory_that_a_forecast_was_confined_to_where_no_step_can_be_saved(run: Run) -> None:
    """Then it is an attempt's end as ever, and the next one's plan is smaller."""
    trouble = ConfinedPassRunsOut(step=6, saves=False)
    status, result = run.train(8, trouble=trouble, fast=True)
    assert (status, result.last_step) == (ExitCode.OUT_OF_GPU_MEMORY, 4), run.log()
    assert result.next_batch_plan is not None


@dataclass(frozen=True)
class ConfinedOptimizerRunsOut:
    """Memory runs out in the first optimizer step, half of whose weights are changed by then."""

    def __call__(self) -> None:
        """Arrange it."""
        from runner.training.fit.memory import Meter

        Meter.lift = lambda _: True  # type: ignore[method-assign]
        MemoryRunsOut("optimizer", 1)()


def test_weights_that_are_half_changed_are_not_gone_on_with(run: Run, undisturbed: Run) -> None:
    """Whatever room there is: that attempt ends, and the next one begins with whole weights."""
    status, result = run.train(8, trouble=ConfinedOptimizerRunsOut())
    assert (status, result.last_step) == (ExitCode.OUT_OF_GPU_MEMORY, 0), run.log()
    assert run.train(8)[0] == ExitCode.OK, run.log()
    assert_same_curve(run.curve(), undisturbed.curve())


@dataclass(frozen=True)
class Unknown:
    """The model has something that the fast path does not know."""

    def __call__(self) -> None:
        """Arrange it."""
        from runner.training.fit import fast_path

        def refuse(*_: Any, **__: Any) -> None:
            raise fast_path.NotRecognised("layers of clay")

        fast_path.recognise = refuse  # type: ignore[assignment]


def test_what_it_does_not_know_trains_on_the_plain_path(run: Run) -> None:
    """The log says why, and what it costs."""
    status, result = run.train(8, trouble=Unknown(), fast=True, total_steps=1)
    assert (status, result.metrics["path"]) == (ExitCode.OK, "plain"), run.log()
    assert "Plain path: this model has layers of clay" in run.log()
    assert "two to three times the time" in run.log()


PLAIN = BatchPlan(per_device_batch_size=2, gradient_accumulation_steps=4)


@pytest.mark.parametrize(
    ("step", "rows", "how"),
    [
        (1, 8, {"probe": True}),  # in the probe
        (3, 8, {"layers_kept": 1, "tokens_per_pass": 10_000, "plain_plan": PLAIN}),
        (6, 4, {}),  # the second micro-batch of a step, whose first has left its gradients
    ],
)
def test_a_kernel_that_fails_in_training_costs_no_step(
    step: int,
    rows: int,
    how: dict[str, Any],
    tmp_path: Path,
    prepared: Path,
    small_models: Path,
    undisturbed: Run,
) -> None:
    """The same attempt goes on with that step on the plain path: a line in the log, no bend."""
    spec = SPEC.replace("training: {", "training: {batch_size: 4, ") if rows == 4 else SPEC
    run = Run(tmp_path, prepared, small_models, spec)
    status, result = run.train(rows, trouble=KernelFails(step), fast=True, **how)
    log = run.stage().log("train").read_text()
    assert status == ExitCode.OK, log
    assert log.count(f"Plain path: the fast one failed in step {step} (RuntimeError)") == 1, log
    assert "misaligned address" in log
    assert log.count("it lets go of the card\n") == 1  # there is none here that would show it
    sizes = {int(size) for size in re.findall(r"^plainly (\d+) rows$", log, re.MULTILINE)}
    assert max(sizes) == result.batch_plan.per_device_batch_size  # more at once might not fit
    assert result.metrics["path"] == "plain"
    assert result.batch_plan.layers_kept is None
    assert result.batch_plan == how.get("plain_plan", result.batch_plan)
    (change,) = result.metrics["plan_changes"]
    assert change.startswith("on the plain path at ")
    told = read_message(run.stage().smaller_plan, SmallerPlan)
    assert (told.batch_plan, told.left_fast_path) == (result.batch_plan, True)
    assert_same_curve(run.curve(), undisturbed.curve())
    assert eval_losses(run) == pytest.approx(eval_losses(undisturbed), rel=1e-3)


@dataclass(frozen=True)
class KernelFailsInLittleRoom:
    """And the plain path has room for so many rows alone."""

    step: int
    rows: int

    def __call__(self) -> None:
        """Arrange it."""
        KernelFails(self.step)()
        RoomFor(rows=self.rows)()


def test_the_plain_path_is_probed_before_it_goes_on(run: Run, undisturbed: Run) -> None:
    """What has no room there is cut at once; the daemon still learns that the fast path failed."""
    whole = BatchPlan(per_device_batch_size=8, gradient_accumulation_steps=1)
    how = {"layers_kept": 1, "tokens_per_pass": 10_000, "plain_plan": whole, "probe": True}
    trouble = KernelFailsInLittleRoom(step=3, rows=4)
    status, result = run.train(8, trouble=trouble, fast=True, **how)
    assert status == ExitCode.OK, run.log()
    assert result.batch_plan.per_device_batch_size == 4
    told = read_message(run.stage().smaller_plan, SmallerPlan)
    assert (told.batch_plan, told.left_fast_path) == (result.batch_plan, True)
    assert_same_curve(run.curve(), undisturbed.curve())


@dataclass(frozen=True)
class KernelFailsAndNoStepIsSaved:
    """No checkpoint but those that fall every two steps."""

    step: int

    def __call__(self) -> None:
        """Arrange it."""
        from runner.training.fit.cut import CuttingTrainer

        def save(trainer: Any, *_: Any, **__: Any) -> None:
            if trainer.state.global_step == self.step - 1:
                raise OSError("no room")

        KernelFails(self.step)()
        around(CuttingTrainer, "_save_checkpoint", save)


def test_a_step_that_is_lost_is_not_taken_twice_in_one_attempt(run: Run) -> None:
    """Where the last finished step cannot be saved, the next attempt has it again."""
    attempt = run.start(8, trouble=KernelFailsAndNoStepIsSaved(step=6), fast=True)
    assert attempt.wait() == ExitCode.UNEXPECTED
    assert "the last finished step could not be saved" in attempt.log()
    assert attempt.log().count("Plain path") == 1
    status, result = run.train(8, fast=False)
    assert (status, result.first_step) == (ExitCode.OK, 5), run.log()


def test_packed_rows_and_dropout(tmp_path: Path, prepared: Path, small_models: Path) -> None:
    """Packed rows have the plain path's losses and gradients; dropout draws its own."""
    folder = tmp_path / "prepared"
    shutil.copytree(prepared, folder)
    write_message(folder / "result.json", PrepareResult(max_length=100))  # longer than any row
    curves = {}
    for name, wanted, lora in (
        ("plain", False, ""),
        ("fast", True, ""),
        ("drops", True, "lora: {dropout: 0.3}\n"),
    ):
        spec = SPEC.replace("training: {", lora + "training: {packing: true, ")
        one = Run(tmp_path / name, folder, small_models, spec)
        status, result = one.train(4, fast=wanted, total_steps=2)
        assert status == ExitCode.OK, one.log()
        assert result.metrics["path"] == ("fast" if wanted else "plain"), one.log()
        curves[name] = one.curve()
    assert_same_curve(curves["fast"], curves["plain"])
    first, dropped = (curves[name][0] for name in ("fast", "drops"))
    assert dropped["loss"] == pytest.approx(first["loss"], rel=0.2)  # B is 0: nothing to drop yet
    assert dropped["grad_norm"] != pytest.approx(first["grad_norm"], rel=1e-3)


def test_in_fp8_and_where_it_cannot_be(
    small_models: Path, prepared: Path, tmp_path: Path, undisturbed: Run
) -> None:
    """`speed: fp8` trains near the exact losses and says what it is; the plain path has none."""
    run = Run(tmp_path / "fp8", prepared, small_models, SPEC + "speed: fp8\n")
    status, result = run.train(8, fast=True, total_steps=4)
    assert status == ExitCode.OK, run.log()
    assert result.metrics["speed"] == "fp8", run.log()
    assert not [text for text in result.shortfalls if "fp8" in text]
    assert "Gradients are less exact than in 16 bits" in run.log()
    losses = [line["loss"] for line in run.lines(1) if "loss" in line]
    exact = [line["loss"] for line in undisturbed.lines(1) if "loss" in line][:4]
    assert losses != exact
    assert losses == pytest.approx(exact, rel=0.1)
    plain = Run(tmp_path / "plain", prepared, small_models, SPEC + "speed: fp8\n")
    status, result = plain.train(8, fast=False, total_steps=1)
    assert status == ExitCode.OK, plain.log()
    assert result.metrics["speed"] == "exact"
    (told,) = [text for text in result.shortfalls if "fp8" in text]
    assert "the run took the plain path" in told
    assert "Plain path: an attempt before this one failed on the fast one." in plain.log()
