"""Out of memory at every place of a run: no step is lost or repeated, and no curve bends."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
from train_box import EFFECTIVE, STEPS, Run, assert_same_curve, start
from trouble import (
    EvaluationRunsOut,
    KilledInEvaluation,
    MemoryRunsOut,
    RoomFor,
    RoomForHeldOut,
    StepGoesWrong,
)

from runner.contract.batch import BatchPlan
from runner.contract.checkpoints import newest_verified, read_manifest, verified
from runner.exit_codes import ExitCode

pytestmark = pytest.mark.long


def fail_once(run: Run, batch: int, where: str, step: int, micro_batch: int, **plan: int) -> int:
    """Run an attempt that runs out of memory, and give the batch that the daemon would try next."""
    status, result = run.train(batch, trouble=MemoryRunsOut(where, step, micro_batch), **plan)
    assert status == ExitCode.OUT_OF_GPU_MEMORY, run.log()
    assert (result.outcome, result.batch_plan.per_device_batch_size) == ("out of memory", batch)
    assert result.last_step == step - 1
    assert result.checkpoint == newest_verified(run.run.checkpoints)
    assert result.next_batch_plan is not None
    return result.next_batch_plan.per_device_batch_size


@pytest.mark.parametrize(
    ("where", "batch", "step", "micro_batch"),
    [
        ("forward", 8, 1, 1),
        ("backward", 4, 6, 2),
        ("forward", 2, 8, 3),  # the last pass of the last, partial step of an epoch
    ],
)
def test_one_failure(
    run: Run, undisturbed: Run, where: str, batch: int, step: int, micro_batch: int
) -> None:
    """Wherever in a step memory runs out, the run goes on from the step before it."""
    less = fail_once(run, batch, where, step, micro_batch)
    status, result = run.train(less)
    assert (status, result.first_step, result.last_step) == (ExitCode.OK, step, STEPS)
    assert_same_curve(run.curve(), undisturbed.curve())


def test_three_failures(run: Run, undisturbed: Run) -> None:
    """Three in one run, one of them in the first step of an attempt, leave the curve as it was."""
    less = fail_once(run, 8, "backward", 3, 1)
    less = fail_once(run, less, "forward", 3, 2)
    less = fail_once(run, less, "backward", 8, 2)
    assert less == 1
    assert run.train(less)[0] == ExitCode.OK
    assert_same_curve(run.curve(), undisturbed.curve())
    assert [line["eval_loss"] for line in run.counted("eval_loss")] == pytest.approx(
        [line["eval_loss"] for line in undisturbed.counted("eval_loss")], rel=1e-3
    )


def test_a_limit_of_tokens_at_once_bends_no_curve(
    run: Run, undisturbed: Run, sentences: list[dict[str, Any]]
) -> None:
    """A micro-batch cut into passes by length gives the same curve, and so does a halved limit."""
    limit = 3 * max(len(row["input_ids"]) for row in sentences)
    # A second pass of a plan of one: only a micro-batch that was cut has it.
    trouble = MemoryRunsOut("backward", 6, 2)
    status, result = run.train(8, trouble=trouble, tokens_per_pass=limit)
    assert (status, result.last_step) == (ExitCode.OUT_OF_GPU_MEMORY, 5), run.log()
    less = result.next_batch_plan
    assert less is not None
    assert (less.per_device_batch_size, less.tokens_per_pass) == (8, limit // 2)
    assert run.train(8, tokens_per_pass=less.tokens_per_pass, probe=True)[0] == ExitCode.OK
    assert_same_curve(run.curve(), undisturbed.curve())


def test_uneven_batches(tmp_path: Path, prepared: Path, small_models: Path) -> None:
    """6 × 1 goes to 3 × 2 and then to 1 × 6, where nothing divides the rows."""
    spec = (
        "model: small\ndata: rows.jsonl\n"
        "training: {epochs: 2, effective_batch_size: 6, learning_rate: 1e-3}\n"
    )
    runs = [Run(tmp_path / name, prepared, small_models, spec) for name in ("whole", "parts")]
    shape = {"effective": 6, "total_steps": 10}
    assert runs[0].train(6, **shape)[0] == ExitCode.OK
    less = fail_once(runs[1], 6, "backward", 2, 1, **shape)
    assert less == 3
    less = fail_once(runs[1], less, "forward", 5, 2, **shape)
    assert less == 1
    assert runs[1].train(less, **shape)[0] == ExitCode.OK
    assert_same_curve(runs[1].curve(), runs[0].curve())


def test_a_failure_inside_the_optimizer_step(run: Run, undisturbed: Run) -> None:
    """Weights that may be half changed are not saved: the last durable checkpoint stands."""
    status, result = run.train(8, trouble=MemoryRunsOut("optimizer", 6))
    assert (status, result.last_step) == (ExitCode.OUT_OF_GPU_MEMORY, 4)
    assert result.checkpoint == newest_verified(run.run.checkpoints) == run.run.checkpoint(4).name
    assert [line["step"] for line in run.lines(1) if "loss" in line] == [1, 2, 3, 4, 5]
    assert run.train(4)[0] == ExitCode.OK
    assert_same_curve(run.curve(), undisturbed.curve())


def test_an_evaluation_backs_off_by_itself(run: Run, undisturbed: Run) -> None:
    """An evaluation that does not fit takes a smaller batch; training never hears of it."""
    trouble = EvaluationRunsOut(step=4, at_any_batch=False)
    status, result = run.train(8, trouble=trouble)
    assert (status, result.batch_plan.per_device_batch_size) == (ExitCode.OK, 8)
    assert_same_curve(run.curve(), undisturbed.curve())
    assert [line["eval_loss"] for line in run.counted("eval_loss")] == pytest.approx(
        [line["eval_loss"] for line in undisturbed.counted("eval_loss")], rel=1e-6
    )


def test_an_evaluation_that_fails_is_done_again(run: Run, undisturbed: Run) -> None:
    """Where no batch helps, the next attempt begins with the held-out loss that is owed."""
    trouble = EvaluationRunsOut(step=4, at_any_batch=True)
    status, result = run.train(8, trouble=trouble)
    assert (status, result.last_step) == (ExitCode.OUT_OF_GPU_MEMORY, 4)
    assert result.next_batch_plan == result.batch_plan  # training had no part in it
    status, result = run.train(8)
    assert status == ExitCode.OK
    assert_same_curve(run.curve(), undisturbed.curve())
    found, wanted = run.counted("eval_loss"), undisturbed.counted("eval_loss")
    assert [line["step"] for line in found] == [line["step"] for line in wanted]
    assert [line["eval_loss"] for line in found] == pytest.approx(
        [line["eval_loss"] for line in wanted], rel=1e-3
    )
    assert result.best_checkpoint == undisturbed.result(1).best_checkpoint
    assert verified(run.run.checkpoints / str(result.best_checkpoint))


def test_a_long_evaluation_costs_no_checkpoint(run: Run, undisturbed: Run) -> None:
    """Where the next checkpoint would come too late, it is made before the held-out loss."""
    attempt = run.start(8, trouble=KilledInEvaluation(step=4), checkpoint_seconds=0.0)
    assert attempt.wait() == -signal.SIGKILL
    assert newest_verified(run.run.checkpoints) == run.run.checkpoint(4).name
    found = run.plan(8, checkpoint_seconds=0.0)
    again = start("train", found)
    assert again.wait() == ExitCode.OK, again.log()
    lines = run.lines(2)
    wanted = [line["eval_loss"] for line in undisturbed.lines(1) if "eval_loss" in line]
    assert [line["step"] for line in lines if "loss" in line] == list(range(5, 13))
    measured = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    assert list(measured) == [4, 8, 12]
    assert list(measured.values()) == pytest.approx(wanted, rel=1e-3)
    assert read_manifest(run.run.checkpoint(12)).eval_loss == measured[12]
    assert run.result(2).best_checkpoint == undisturbed.result(1).best_checkpoint


def test_an_evaluation_that_never_fits_costs_no_run(run: Run, undisturbed: Run) -> None:
    """Where not even a fresh process has the memory, training goes on and the run says so."""
    trouble = EvaluationRunsOut(step=4, at_any_batch=True)
    assert run.train(8, trouble=trouble)[0] == ExitCode.OUT_OF_GPU_MEMORY
    status, result = run.train(8, trouble=trouble)
    assert status == ExitCode.OK
    assert "from step 4 on" in " ".join(result.shortfalls)
    assert (result.best_eval_loss, result.best_checkpoint) == (None, run.run.checkpoint(12).name)
    assert_same_curve(run.curve(), undisturbed.curve())


@pytest.mark.parametrize(
    ("room", "plan"),
    [
        (
            RoomFor(rows=2),
            BatchPlan(per_device_batch_size=2, gradient_accumulation_steps=4),
        ),
        (
            RoomFor(rows=1, checkpointing=True),
            BatchPlan(
                per_device_batch_size=1,
                gradient_accumulation_steps=EFFECTIVE,
                activation_checkpointing=True,
            ),
        ),
    ],
    ids=["rows", "checkpointing"],
)
def test_the_probe_finds_the_plan_that_fits(
    run: Run, undisturbed: Run, room: RoomFor, plan: BatchPlan
) -> None:
    """Before step 1 and in the same process, the plan shrinks until the worst batch fits."""
    status, result = run.train(8, trouble=room, probe=True)
    assert (status, result.batch_plan) == (ExitCode.OK, plan)
    assert_same_curve(run.curve(), undisturbed.curve())


@pytest.mark.parametrize(("probe", "steps"), [(True, {"0"}), (False, {"4"})])
def test_the_probe_tries_the_worst_held_out_batch(
    run: Run, undisturbed: Run, *, probe: bool, steps: set[str]
) -> None:
    """What evaluation has no room for is found before step 1, not at the end of the first epoch."""
    status, result = run.train(8, trouble=RoomForHeldOut(rows=2), probe=probe)
    assert (status, result.batch_plan.per_device_batch_size) == (ExitCode.OK, 8)
    log = run.stage().log("train").read_text()
    assert set(re.findall(r"no room for held-out rows after step (\d+)", log)) == steps
    assert [line["eval_loss"] for line in run.counted("eval_loss")] == pytest.approx(
        [line["eval_loss"] for line in undisturbed.counted("eval_loss")], rel=1e-6
    )


def test_dropout_goes_on_where_it_was(tmp_path: Path, prepared: Path, small_models: Path) -> None:
    """At the same plan not even the random draws change: losses are those of the whole run."""
    spec = (
        "model: small\ndata: rows.jsonl\nlora: {dropout: 0.1}\n"
        "training: {max_steps: 6, effective_batch_size: 8, learning_rate: 1e-3}\n"
    )
    whole, parts = (Run(tmp_path / name, prepared, small_models, spec) for name in ("a", "b"))
    assert whole.train(4, total_steps=6)[0] == ExitCode.OK
    trouble = MemoryRunsOut("backward", 3, 2)
    assert parts.train(4, trouble=trouble, total_steps=6)[0] == ExitCode.OUT_OF_GPU_MEMORY
    assert parts.train(4, total_steps=6)[0] == ExitCode.OK
    assert_same_curve(parts.curve(), whole.curve(), rel=1e-6)


def test_a_machine_that_holds_not_even_one_row(run: Run) -> None:
    """When nothing is left to make smaller, the attempt says so and what needs less."""
    status, result = run.train(8, trouble=RoomFor(rows=0), probe=True)
    assert (status, result.last_step) == (ExitCode.OUT_OF_GPU_MEMORY, 0)
    assert result.next_batch_plan is None
    assert result.batch_plan.activation_checkpointing
    assert result.error is not None
    assert "max_length" in str(result.error.advice)


def test_the_probe_leaves_no_trace(tmp_path: Path, prepared: Path, small_models: Path) -> None:
    """With dropout drawing from the random state, probed and unprobed are bit-identical."""
    spec = (
        "model: small\ndata: rows.jsonl\nlora: {dropout: 0.1}\n"
        "training: {max_steps: 3, effective_batch_size: 8, learning_rate: 1e-3}\n"
    )
    found = []
    for probe in (True, False):
        run = Run(tmp_path / str(probe), prepared, small_models, spec)
        status, result = run.train(4, probe=probe, total_steps=3)
        assert status == ExitCode.OK
        weights = run.run.checkpoints / str(result.checkpoint) / "adapter_model.safetensors"
        curve = [(line["loss"], line["grad_norm"]) for line in run.curve()]
        found.append((curve, result.best_eval_loss, weights.read_bytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize("times", [0, 2], ids=["left out", "repeated"])
def test_the_comparison_can_fail(run: Run, undisturbed: Run, times: int) -> None:
    """One optimizer step left out or repeated is seen by the comparison that the others pass."""
    assert run.train(8, trouble=StepGoesWrong(step=6, times=times))[0] == ExitCode.OK
    with pytest.raises(AssertionError, match="loss"):
        assert_same_curve(run.curve(), undisturbed.curve())
