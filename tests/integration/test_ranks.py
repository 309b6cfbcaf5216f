"""Several ranks train as one card does: same rows, rates and losses, whatever happens to one.

On a CPU, in fp32, over gloo: what differs on cards is the way that gradients take.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from daemon_box import wait_until
from ranks_box import FromStep, HeldOutTimes, LoadingFails, Ranks, is_gone, rank_pid
from train_box import SPEC, STEPS, Run, assert_same_curve
from trouble import EvaluationRunsOut, KernelFails, MemoryRunsOut, NotANumber, RoomFor

from runner.contract.checkpoints import newest_verified, sha256_of
from runner.contract.stage_io import PARENT
from runner.daemon.stages.adopt import adopt
from runner.exit_codes import ExitCode
from runner.training.ranks.place import folder_of

pytestmark = pytest.mark.long

CLOSE = 1e-5
"""fp32's rounding; 1e-7 was seen."""


@pytest.mark.parametrize(
    ("batch", "plan"),
    [
        (4, {}),
        (1, {}),  # one row a pass
        (8, {"tokens_per_pass": 60}),
        (8, {"fast": True, "probe": True}),
    ],
)
def test_two_ranks_are_as_one(run: Run, undisturbed: Run, batch: int, plan: dict[str, Any]) -> None:
    """Rows of unequal lengths, however a step is cut: one rank's curve and held-out losses."""
    status, result = run.train(batch, ranks=2, trouble=Ranks(), **plan)
    assert (status, result.last_step) == (ExitCode.OK, STEPS), run.log()
    assert_same_curve(run.curve(), undisturbed.curve(), rel=CLOSE)
    assert [line["eval_loss"] for line in run.counted("eval_loss")] == pytest.approx(
        [line["eval_loss"] for line in undisturbed.counted("eval_loss")], rel=CLOSE
    )
    assert_same_adapter(run, undisturbed)
    both = [folder_of(run.stage().root, rank).metrics.read_text() for rank in (0, 1)]
    assert without_times(both[0]) == without_times(both[1])  # to the last bit: none drifts away
    assert not any(folder_of(run.stage().root, 1).root.glob("checkpoints/*"))  # one writes


def test_three_ranks_and_steps_of_one_row(
    tmp_path: Path, prepared: Path, small_models: Path
) -> None:
    """29 rows by 7: each epoch ends in a step that two of three ranks have no row of."""
    shape: dict[str, Any] = {"effective": 7, "total_steps": 10}
    runs = [Run(tmp_path / str(ranks), prepared, small_models) for ranks in (1, 3)]
    assert runs[0].train(7, **shape)[0] == ExitCode.OK
    status, _ = runs[1].train(7, ranks=3, trouble=Ranks(), **shape)
    assert status == ExitCode.OK, runs[1].log()
    assert_same_curve(runs[1].curve(), runs[0].curve(), rel=CLOSE)
    assert [len(line["rows"]) for line in runs[1].curve()][4] == 1


def test_a_run_goes_on_with_any_number_of_ranks(run: Run, undisturbed: Run) -> None:
    """Two ranks, then one, then two: each step once, and the curve as it was."""
    for ranks, step in ((2, 3), (1, 7)):
        stop = FromStep(step, signal.SIGTERM)
        trouble = Ranks({0: stop}) if ranks > 1 else stop
        status, result = run.train(4, ranks=ranks, trouble=trouble)
        assert (status, result.last_step) == (ExitCode.INTERRUPTED, step), run.log()
    status, result = run.train(4, ranks=2, trouble=Ranks())
    assert (status, result.last_step) == (ExitCode.OK, STEPS), run.log()
    assert_same_curve(run.curve(), undisturbed.curve(), rel=CLOSE)
    assert_same_adapter(run, undisturbed)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stop_that_one_rank_hears(run: Run, rank: int) -> None:
    """All leave after the same step, with a checkpoint of it, and nothing runs on."""
    trouble = Ranks({rank: FromStep(5, signal.SIGTERM)})
    status, result = run.train(4, ranks=2, trouble=trouble)
    assert (status, result.outcome, result.last_step) == (ExitCode.INTERRUPTED, "interrupted", 5)
    assert result.checkpoint == newest_verified(run.run.checkpoints) == run.run.checkpoint(5).name
    assert all(is_gone(rank_pid(run.stage().root, one)) for one in (0, 1))


def test_a_stop_of_the_stage(run: Run) -> None:
    """The daemon asks the one process that it knows: the ranks leave with a checkpoint."""
    attempt = run.start(4, ranks=2, trouble=Ranks())
    signal_when_waiting(run, attempt.pid, signal.SIGTERM)
    assert attempt.wait() == ExitCode.INTERRUPTED, attempt.log()
    assert attempt.result().last_step >= 1
    assert newest_verified(run.run.checkpoints) == attempt.result().checkpoint


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed(run: Run, undisturbed: Run, rank: int) -> None:
    """The stage ends as if the signal had ended it; what was durable is gone on from."""
    trouble = Ranks({rank: FromStep(5, signal.SIGKILL)})
    attempt = run.start(4, ranks=2, trouble=trouble)
    assert attempt.wait() == -signal.SIGKILL, attempt.log()
    assert newest_verified(run.run.checkpoints) is not None
    assert all(is_gone(rank_pid(run.stage().root, one)) for one in (0, 1))
    last = 5 if rank else 4  # the other one saves the step that it has finished
    status, result = run.train(4, ranks=2, trouble=Ranks())
    assert (status, result.first_step, result.last_step) == (ExitCode.OK, last + 1, STEPS)
    losses = [line["loss"] for line in run.lines(2) if "loss" in line]
    wanted = [line["loss"] for line in undisturbed.curve()]
    assert losses == pytest.approx(wanted[last:], rel=CLOSE)


def test_a_rank_that_stands_still(run: Run) -> None:
    """It is found by its silence and ended; the other saves what is done, and says which it was."""
    trouble = Ranks({1: FromStep(5, signal.SIGSTOP)}, silent_seconds=3.0)
    status, result = run.train(4, ranks=2, trouble=trouble)
    assert status == ExitCode.UNEXPECTED, run.log()
    assert result.error is not None
    assert result.error.kind == "hung"
    assert "card 2" in result.error.message
    assert result.last_step == 5
    assert all(is_gone(rank_pid(run.stage().root, one)) for one in (0, 1))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("where", "saved"), [("forward", 5), ("backward", 5), ("optimizer", None)])
def test_out_of_memory_on_one_rank(
    run: Run, undisturbed: Run, rank: int, where: str, saved: int | None
) -> None:
    """All end, the plan is halved for all, and the run goes on from the step before."""
    trouble = Ranks({rank: MemoryRunsOut(where, 6)})
    status, result = run.train(4, ranks=2, trouble=trouble)
    assert (status, result.outcome) == (ExitCode.OUT_OF_GPU_MEMORY, "out of memory"), run.log()
    assert result.next_batch_plan is not None
    assert result.next_batch_plan.per_device_batch_size == 2
    assert result.last_step == saved or saved is None
    status, result = run.train(2, ranks=2, trouble=Ranks())
    assert (status, result.last_step) == (ExitCode.OK, STEPS), run.log()
    assert_same_curve(run.curve(), undisturbed.curve(), rel=CLOSE)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_kernel_that_fails_on_one_rank(run: Run, undisturbed: Run, rank: int) -> None:
    """The others wait in that step for its gradients: all end, and the next attempt is plain."""
    trouble = Ranks({rank: KernelFails(5)})
    status, result = run.train(4, ranks=2, fast=True, trouble=trouble)
    assert (status, result.last_step) == (ExitCode.UNEXPECTED, 4), run.log()
    assert result.error is not None
    assert "A kernel of the fast path failed in step 5 (RuntimeError)" in result.error.message
    assert all(is_gone(rank_pid(run.stage().root, one)) for one in (0, 1))
    status, result = run.train(4, ranks=2, fast=False, trouble=Ranks())
    assert (status, result.first_step, result.last_step) == (ExitCode.OK, 5, STEPS), run.log()
    assert_same_curve(run.curve(), undisturbed.curve(), rel=CLOSE)


def test_a_probe_that_fits_on_one_rank_alone(run: Run, undisturbed: Run) -> None:
    """All try the smaller plan."""
    status, result = run.train(4, ranks=2, probe=True, trouble=Ranks({1: RoomFor(2)}))
    assert (status, result.batch_plan.per_device_batch_size) == (ExitCode.OK, 2), run.log()
    assert_same_curve(run.curve(), undisturbed.curve(), rel=CLOSE)


@pytest.mark.parametrize("rank", [0, 1])
def test_no_plan_fits_on_one_rank(run: Run, rank: int) -> None:
    """Both leave for want of memory, as one card would: the daemon's advice is about memory."""
    trouble = Ranks({rank: RoomFor(0)})
    plan = {"activation_checkpointing": True}
    status, result = run.train(1, ranks=2, probe=True, trouble=trouble, **plan)
    assert (status, result.outcome) == (ExitCode.OUT_OF_GPU_MEMORY, "out of memory"), run.log()
    assert result.next_batch_plan is None
    assert result.error is not None
    assert "method: qlora" in str(result.error.advice)


def test_dropout_goes_on_as_it_would_have(
    tmp_path: Path, prepared: Path, small_models: Path
) -> None:
    """Each rank draws its own, and a run that was stopped draws what it would have."""
    spec = SPEC + "lora: {dropout: 0.2}\n"
    whole, parts = (Run(tmp_path / name, prepared, small_models, spec) for name in ("w", "p"))
    assert whole.train(4, ranks=2, trouble=Ranks())[0] == ExitCode.OK, whole.log()
    stop = Ranks({1: FromStep(5, signal.SIGTERM)})
    assert parts.train(4, ranks=2, trouble=stop)[0] == ExitCode.INTERRUPTED
    assert parts.train(4, ranks=2, trouble=Ranks())[0] == ExitCode.OK, parts.log()
    assert_same_curve(parts.curve(), whole.curve(), rel=CLOSE)
    alone = Run(tmp_path / "a", prepared, small_models, spec)
    assert alone.train(4)[0] == ExitCode.OK
    assert alone.curve()[3]["loss"] != whole.curve()[3]["loss"]  # dropout was on
    for name in ("rows", "learning_rate"):  # and the order of rows is one rank's all the same
        assert [a[name] for a in alone.curve()] == [b[name] for b in whole.curve()]


def test_ranks_leave_when_their_launcher_is_killed(run: Run) -> None:
    """The kernel asks them to stop: they save what is done, and none runs on."""
    attempt = run.start(4, ranks=2, trouble=Ranks())
    signal_when_waiting(run, attempt.pid, signal.SIGKILL)
    assert attempt.wait() == -signal.SIGKILL
    wait_until(lambda: all(is_gone(rank_pid(run.stage().root, one)) for one in (0, 1)))
    step = attempt.result().last_step
    adopt(run.run, run.stage(), sha256_of)  # again: they sealed it when their launcher had ended
    assert run.run.checkpoint(step).name == newest_verified(run.run.checkpoints)
    assert run.train(4, ranks=2, trouble=Ranks())[1].first_step == step + 1


def test_a_rank_that_fails_before_training(run: Run) -> None:
    """The others do not wait for it, and the result has its reason."""
    attempt = run.start(4, ranks=2, trouble=Ranks({1: LoadingFails()}))
    assert attempt.wait() == ExitCode.UNEXPECTED
    assert "Loading failed" in run.stage().result.read_text()
    assert all(is_gone(rank_pid(run.stage().root, one)) for one in (0, 1))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_held_out_loss_that_runs_out_on_one_rank(run: Run, undisturbed: Run, rank: int) -> None:
    """It does not speak against the plan: all end, and the next attempt measures first."""
    trouble = Ranks({rank: EvaluationRunsOut(step=4, at_any_batch=True)})
    status, result = run.train(4, ranks=2, trouble=trouble)
    assert (status, result.last_step) == (ExitCode.OUT_OF_GPU_MEMORY, 4), run.log()
    assert result.next_batch_plan == result.batch_plan
    assert run.train(4, ranks=2, trouble=Ranks())[0] == ExitCode.OK, run.log()
    assert_same_curve(run.curve(), undisturbed.curve(), rel=CLOSE)
    found, wanted = run.counted("eval_loss"), undisturbed.counted("eval_loss")
    assert [line["step"] for line in found] == [line["step"] for line in wanted]


def test_a_loss_that_is_no_number_on_one_rank(run: Run) -> None:
    """The sum is none either: all end, and nobody tries again."""
    status, result = run.train(4, ranks=2, trouble=Ranks({1: NotANumber(3)}))
    assert (status, result.outcome) == (ExitCode.DIVERGED, "diverged"), run.log()


def test_a_small_run_of_two_ranks(tmp_path: Path, prepared: Path, small_models: Path) -> None:
    """What decides on a learning rate is each held-out row's loss: all rows', as on one card."""
    found = []
    for ranks in (1, 2):
        run = Run(tmp_path / str(ranks), prepared, small_models)
        trouble = Ranks() if ranks > 1 else None
        status, result = run.train(4, ranks=ranks, total_steps=3, is_trial=True, trouble=trouble)
        assert status == ExitCode.OK, run.log()
        assert result.held_out is not None
        found.append(result.held_out)
    assert found[0].tokens == found[1].tokens
    assert found[0].sums == pytest.approx(found[1].sums, rel=CLOSE)


def test_the_best_step_is_that_of_all_held_out_rows(run: Run) -> None:
    """Of the first rank's rows, which writes the checkpoints, the last step is the best one."""
    trouble = Ranks({1: HeldOutTimes({8: 0.5, 12: 2.0})})
    status, result = run.train(4, ranks=2, trouble=trouble)
    assert (status, result.last_step) == (ExitCode.OK, STEPS), run.log()
    assert result.best_checkpoint == run.run.checkpoint(8).name
    assert run.run.checkpoint(8).exists()


def test_the_stage_starts_its_ranks_by_itself(run: Run, tmp_path: Path) -> None:
    """As the daemon does: one command, each rank a Python of its own, one result.

    The locks of the cards, which the daemon hands on, are held by each rank.
    """
    stage = run.plan(4, ranks=2, total_steps=2)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop(PARENT, None)
    lock = tmp_path / "gpu.lease"
    with stage.log("train").open("ab") as log, lock.open("w") as held:
        child = subprocess.Popen(
            [sys.executable, "-m", "runner.training", "train", str(stage.root)],
            env=environment,
            stdout=log,
            stderr=log,
            pass_fds=(held.fileno(),),
        )
        ranks = wait_until(lambda: len(found := _holders(lock)) == 4 and found)
        assert child.pid in ranks  # besides this process and the two ranks
        assert child.wait(timeout=200) == ExitCode.OK, run.log()
        assert _holders(lock) == [os.getpid()]
    assert run.result(1).last_step == 2
    second = folder_of(stage.root, 1)
    assert without_times(second.metrics.read_text()) == without_times(stage.metrics.read_text())
    assert second.log("train").exists()


def _holders(file: Path) -> list[int]:
    """List the processes that have a file open."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(entry) == str(file):
                found.add(int(entry.parts[2]))
    return sorted(found)


def assert_same_adapter(run: Run, other: Run) -> None:
    """Hold that two runs' last adapters are close.

    Within a tenth of one step's rate: Adam makes as much of a gradient that is all rounding.
    """
    from safetensors.torch import load_file

    name = run.run.checkpoint(STEPS).name
    found, wanted = (
        load_file(one.run.checkpoints / name / "adapter_model.safetensors") for one in (run, other)
    )
    assert found.keys() == wanted.keys()
    for key, weight in found.items():
        assert (weight - wanted[key]).abs().max() <= 1e-4, key


def without_times(text: str) -> list[dict[str, Any]]:
    """Read metrics; each rank has its own clock."""
    clocks = ("time", "tokens_per_second")
    lines = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in line.items() if k not in clocks} for line in lines]


def signal_when_waiting(run: Run, pid: int, number: int) -> None:
    """Send a signal once the run has finished a step."""
    wait_until(lambda: run.stage().metrics.exists() and "loss" in run.stage().metrics.read_text())
    os.kill(pid, number)
