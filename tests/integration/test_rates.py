"""Learning rates tried before the training: one small run each, the best one trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from daemon_box import Box, attempt_of, wait_until
from typer.testing import CliRunner

from runner.cli import app
from runner.clock import now
from runner.contract.checkpoints import everywhere
from runner.contract.layout import StageFolder
from runner.contract.stage_io import TrainPlan, read_message
from runner.contract.states import State
from runner.exit_codes import ExitCode
from runner.language.speaker import Language, Speaker
from runner.report.gather import gather
from runner.report.page import page

LOW, OWN, HIGH = "0.0001", "0.0002", "0.0004"
BETTER = {
    LOW: [2.4 + row / 100 for row in range(40)],
    OWN: [2.0 + row / 100 for row in range(40)],
    HIGH: [1.5 + row / 100 for row in range(40)],
}
TRY = "try: {learning_rate: [1e-4, 2e-4, 4e-4], hours: 6}\n"
OUT_OF_MEMORY = str(int(ExitCode.OUT_OF_GPU_MEMORY))
DIVERGED = str(int(ExitCode.DIVERGED))


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """An empty box."""
    return Box(tmp_path)


def drop(box: Box, extra: str = TRY, **script: Any) -> None:
    """Drop a job that tries rates."""
    (box.jobs / "a.jsonl").write_text(json.dumps({"losses": BETTER, **script}))
    box.drop_spec("a", extra)


def plans(box: Box) -> list[TrainPlan]:
    """Read the plans of the small runs, in the order of the rates."""
    (run,) = box.outputs.runs()
    homes = [run.rate(number) for number in (1, 2, 3)]
    return [read_message(StageFolder(attempt_of(home, 1)).plan, TrainPlan) for home in homes]


def train_plan(box: Box) -> TrainPlan:
    """Read the plan of the newest attempt."""
    (run,) = box.outputs.runs()
    return read_message(StageFolder(attempt_of(run, len(box.record().attempts))).plan, TrainPlan)


def test_the_best_rate_trains_and_everything_says_so(box: Box) -> None:
    """Record, answer, report and `runner show` name the rate, its reason and each one's loss."""
    drop(box)
    assert box.once().returncode == 0
    record = box.record()
    assert record.state is State.SUCCEEDED
    assert record.rates is not None
    assert (record.rates.chosen, record.rates.own, record.rates.why) == (4e-4, 2e-4, "shown")
    losses = [one.eval_loss for one in record.rates.trials]
    assert losses == pytest.approx([2.595, 2.195, 1.695])
    assert [plan.learning_rate for plan in plans(box)] == [1e-4, 2e-4, 4e-4]
    assert {(plan.total_steps, plan.is_trial) for plan in plans(box)} == {(8, True)}
    main = train_plan(box)
    assert (main.learning_rate, main.is_trial, main.total_steps) == (4e-4, False, 8)
    assert main.seconds_left is not None
    assert main.seconds_left < 6 * 3600
    assert "trains with 4e-4: after 8 steps" in box.answer("done")
    (run,) = box.outputs.runs()
    shown = (
        CliRunner()
        .invoke(app, ["show", "a", "--outputs-dir", str(box.outputs.root)], env={"COLUMNS": "200"})
        .output
    )
    assert "held-out loss 1.6950, lower than that of 2e-4 by 0.5000 to 0.5000" in shown
    german = page(gather(run), Speaker(Language.GERMAN), now=now())
    assert "wird mit 4e-4 trainiert" in german
    assert "1,6950, um 0,5000 bis 0,5000 niedriger als der von 2e-4" in german
    assert not any(run.rate(number).checkpoints.exists() for number in (1, 2, 3))


def test_a_kill_repeats_no_rate_that_is_done(box: Box) -> None:
    """The one that was cut off goes on from its checkpoint; the ones before it are not started."""
    drop(box, rates=["ok", "train 4 then -9", "ok"])
    assert box.once().returncode == 0
    record = box.record()
    assert record.rates is not None
    assert record.rates.chosen == 4e-4
    assert int((box.outputs.runs()[0].root / "tries-rates").read_text()) == 4  # one once more
    assert [plan.resume_from for plan in plans(box)] == [None, "step-00000004", None]


def test_a_plan_made_smaller_stays_so_for_the_training(box: Box) -> None:
    """An out-of-memory in a small run halves the batch once, for that run and all after it."""
    drop(box, TRY + "training: {effective_batch_size: 8}\n", rates=["ok", OUT_OF_MEMORY, "ok"])
    assert box.once().returncode == 0
    sizes = [plan.batch_plan.per_device_batch_size for plan in plans(box)]
    assert sizes == [4, 2, 2]
    assert train_plan(box).batch_plan.per_device_batch_size == 2
    assert {plan.batch_plan.effective_batch_size for plan in plans(box)} == {8}


@pytest.mark.parametrize(
    ("ways", "chosen", "why"),
    [(["ok", DIVERGED, "ok"], 4e-4, "own_diverged"), (["ok", "ok", DIVERGED], 2e-4, "own_best")],
)
def test_a_rate_that_diverges_is_out(box: Box, ways: list[str], chosen: float, why: str) -> None:
    """It ends its own small run, not the job."""
    drop(box, rates=ways)
    assert box.once().returncode == 0
    rates = box.record().rates
    assert rates is not None
    assert (rates.chosen, rates.why) == (chosen, why)


def test_held_out_rows_that_are_gone_cost_the_comparison_and_not_the_run(box: Box) -> None:
    """It trains with its own rate, and says that nothing was compared."""
    drop(box, losses={**BETTER, HIGH: None})
    assert box.once().returncode == 0
    record = box.record()
    assert record.state is State.SUCCEEDED, record.error
    assert record.rates is not None
    assert (record.rates.chosen, record.rates.why) == (2e-4, "losses_lost")
    assert [one.outcome for one in record.rates.trials] == ["measured", "measured", None]
    assert "is missing. It trains with 2e-4" in box.answer("done")
    (run,) = box.outputs.runs()
    assert not list(run.rates.glob("*/checkpoints"))


def test_checkpoints_of_a_small_run_go_before_the_next_one_starts(box: Box) -> None:
    """Also where that one does not start: the run is cancelled, and nothing of them stays."""
    drop(box, rates=["ok", "train 4 then hang"])
    with box.watching():
        (run,) = wait_until(box.outputs.runs)
        wait_until(lambda: list(run.rate(2).attempts.glob("01-*/hanging")))
        assert not run.rate(1).checkpoints.exists()
        assert everywhere(run.rate(2))
        (spec,) = (box.jobs / "running").glob("a--*.yaml")
        spec.unlink()
        wait_until(lambda: box.in_state(State.CANCELLED))
        wait_until(lambda: not list(run.rates.glob("*/checkpoints")))


def test_where_every_rate_diverges_the_run_fails(box: Box) -> None:
    """There is nothing to train with, and the answer says what to write instead."""
    drop(box, rates=[DIVERGED])
    box.once()
    record = box.record()
    assert record.state is State.FAILED
    (run,) = box.outputs.runs()
    assert not list(run.rates.glob("*/checkpoints"))
    assert record.error is not None
    assert "each of the learning rates tried: 1e-4, 2e-4, 4e-4" in record.error.message
    assert "lower rates" in box.answer("failed")


def test_a_stop_in_a_small_run_goes_on_at_the_next_start(box: Box) -> None:
    """A daemon that is asked to stop leaves the rate that it tries for the next one."""
    drop(box, rates=["ok", "hang", "ok"])
    with box.watching():
        (run,) = wait_until(box.outputs.runs)
        wait_until(lambda: list(run.rate(2).attempts.glob("01-*/hanging")))
        wait_until(lambda: "2 of 3, 2e-4" in box.answer("running"))
        status = (
            CliRunner()
            .invoke(
                app,
                ["status", "--outputs-dir", str(box.outputs.root)],
                env={"COLUMNS": "150"},
            )
            .output
        )
        assert "2 of 3, 2e-4" in status
    stopped = box.record()
    assert stopped.state is State.INTERRUPTED
    assert stopped.rates is not None
    assert [one.outcome for one in stopped.rates.trials] == ["measured", None, None]
    assert box.once().returncode == 0
    assert int((run.root / "tries-rates").read_text()) == 4


def test_without_held_out_rows_it_trains_with_its_own_rate(box: Box) -> None:
    """Where the data is too little to hold anything out, that is said and nothing is tried."""
    (box.jobs / "a.jsonl").write_text("{}")
    box.drop_spec("a", TRY)
    assert box.once().returncode == 0
    record = box.record()
    assert record.rates is not None
    assert (record.rates.chosen, record.rates.why) == (2e-4, "nothing_held_out")
    assert "no rows could be held out" in box.answer("done")
