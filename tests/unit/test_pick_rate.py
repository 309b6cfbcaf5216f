"""Learning rates tried: how long each, which one wins, what is refused; pure decisions."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.contract.batch import BatchPlan
from runner.contract.layout import RunFolder
from runner.contract.pick_rate import begin, pick, small_runs, steps_each
from runner.contract.rates import (
    DIVERGED,
    MEASURED,
    HeldOutLosses,
    RatesTried,
    in_words,
    rates_in,
    trial_in,
)
from runner.contract.record import ErrorFacts, RunRecord
from runner.contract.settings import Settings
from runner.contract.stage_io import SmallerPlan, TrainPlan, TrainResult
from runner.contract.states import Stage, State
from runner.daemon.stages.plans import make_plan
from runner.daemon.stages.rates import TrialEnd, judge_trial, size_rates
from runner.daemon.stages.retry import Next
from runner.errors import SpecError
from runner.exit_codes import ExitCode
from runner.language.speaker import ENGLISH, Language, Speaker
from runner.spec.read_spec import read_spec
from runner.spec.spec import JobSpec

GERMAN = Speaker(Language.GERMAN)
PLAN = BatchPlan(per_device_batch_size=4, gradient_accumulation_steps=4)
RUN = RunFolder(Path("/outputs/a/20261127T120000Z-k3f9"))


def spec(extra: str) -> JobSpec:
    """Read a spec with these lines."""
    return read_spec(f"model: m\ndata: a.jsonl\n{extra}\n".encode(), file_name="a.yaml")


def losses(mean: float, *, spread: float = 0.0, rows: int = 40, seed: int = 0) -> HeldOutLosses:
    """Draw the losses of rows with 10 tokens each, around a mean, each row its own level."""
    level = np.random.default_rng(99).normal(0, 0.5, rows)
    noise = np.random.default_rng(seed).normal(0, spread, rows)
    sums = 10 * (mean + level + noise - (level + noise).mean())
    return HeldOutLosses(sums=tuple(map(float, sums)), tokens=(10,) * rows)


def tried(*rates: float, wanted: float = 2e-4, outcome: str = MEASURED) -> RatesTried:
    """Give small runs that are done."""
    found = begin(rates, wanted=wanted).model_copy(update={"steps": 20})
    for at in range(len(rates)):
        found = found.with_trial(at, outcome=outcome)
    return found


@pytest.mark.parametrize(
    ("rates", "wanted", "own"),
    [
        ((1e-4, 2e-4, 4e-4), 2e-4, 2e-4),
        ((1e-4, 4e-4), 3e-4, 4e-4),
        ((1e-5, 1e-3), 2e-4, 1e-3),  # five times as much is nearer than a twentieth
        ((1e-4, 4e-4), 2e-4, 1e-4),  # as near: the careful one
    ],
)
def test_the_own_rate_is_the_nearest_in_ratio(
    rates: tuple[float, ...], wanted: float, own: float
) -> None:
    """What wins a tie is what the run would have trained with, or the rate next to it."""
    assert begin(rates, wanted=wanted).own == own


@pytest.mark.parametrize(
    ("total", "seconds", "step_seconds", "steps"),
    [
        (300, None, None, 100),  # a third of the run
        (300, 7200.0, 10.0, 100),  # there is time for more
        (300, 600.0, 10.0, 60),  # there is time for these
        (300, 600.0, None, 100),  # the first one shows how long a step takes
        (20, None, None, 10),  # a third would be too few
        (6, None, None, 6),  # a short run is tried whole
        (300, 5.0, 10.0, 0),
    ],
)
def test_steps_follow_from_the_run_and_the_time(
    total: int, seconds: float | None, step_seconds: float | None, steps: int
) -> None:
    """Small runs are a share of the run, and of the time given."""
    assert steps_each(total, seconds=seconds, step_seconds=step_seconds) == steps


@pytest.mark.parametrize(
    ("found", "chosen", "why"),
    [
        ((losses(2.0), losses(1.9), losses(1.5)), 4e-4, "shown"),
        ((losses(1.5), losses(1.9), losses(2.0)), 1e-4, "shown"),
        ((losses(2.0), losses(1.5), losses(1.9)), 2e-4, "own_best"),
        ((losses(1.9), losses(1.9), losses(1.9)), 2e-4, "own_best"),  # a tie
        ((losses(2.0), losses(1.9), losses(1.88, spread=0.5, seed=1)), 2e-4, "within_chance"),
        ((None, losses(1.9), losses(2.0)), 2e-4, "own_best"),
        ((losses(1.9), None, losses(1.8, spread=0.5, seed=1)), 4e-4, "own_diverged"),
        ((None, losses(1.9, rows=1), losses(1.5, rows=1)), 2e-4, "within_chance"),
    ],
)
def test_another_rate_wins_only_beyond_chance(
    found: tuple[HeldOutLosses | None, ...], chosen: float, why: str
) -> None:
    """Ties, and differences that may be chance, go to the spec's own rate."""
    rates = tried(1e-4, 2e-4, 4e-4)
    for at, one in enumerate(found):
        rates = rates.with_trial(at, outcome=MEASURED if one else DIVERGED)
    picked = pick(rates, found)
    assert picked is not None
    assert (picked.chosen, picked.why) == (chosen, why)
    assert picked.next_trial is None
    assert picked.reason == rates_in(picked, ENGLISH)
    assert rates_in(picked, GERMAN) != picked.reason
    assert in_words(chosen) in picked.reason


def test_the_interval_is_that_of_a_bootstrap_over_rows() -> None:
    """Held beside ten thousand draws of the rows: the same difference and nearly the same ends."""
    own, other = losses(2.0, spread=0.3, seed=3), losses(1.9, spread=0.3, seed=4)
    picked = pick(tried(2e-4, 4e-4), (own, other))
    assert picked is not None
    found = picked.trial(4e-4)
    change = (np.array(own.sums) - np.array(other.sums)) / 10
    draws = np.random.default_rng(5).integers(0, 40, (10_000, 40))
    low, high = np.quantile(change[draws].mean(axis=1), [0.025, 0.975])
    assert found.difference == pytest.approx(change.mean())
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.02)


@pytest.mark.parametrize(
    ("mean", "spread", "says"),
    [
        (1.5, 0.0, "lower than that of 2e-4 by 0.5000 to 0.5000"),
        (2.4, 0.0, "higher than that of 2e-4 by 0.4000 to 0.4000"),
        (2.0, 0.3, "between 0.09"),
    ],
)
def test_each_rate_is_said_beside_the_own(mean: float, spread: float, says: str) -> None:
    """Lower is better; both ends of the interval, in words and without a sign to guess at."""
    picked = pick(tried(2e-4, 4e-4), (losses(2.0), losses(mean, spread=spread, seed=6)))
    assert picked is not None
    assert says in trial_in(picked, picked.trial(4e-4))
    assert trial_in(picked, picked.trial(2e-4)) == "held-out loss 2.0000"
    assert "Verlust" in trial_in(picked, picked.trial(4e-4), GERMAN)


def test_where_all_diverged_nothing_is_picked() -> None:
    """There is no rate to train with."""
    assert pick(tried(1e-4, 2e-4, outcome=DIVERGED), (None, None)) is None


def test_losses_that_are_lost_leave_the_own_rate() -> None:
    """What was measured and cannot be read is no divergence; without its own, the lowest noted."""
    rates = tried(1e-4, 2e-4, 4e-4)
    for at, loss in enumerate((1.5, 2.0, 1.8)):
        rates = rates.with_trial(at, eval_loss=loss)
    found = pick(rates, [losses(1.5), losses(2.0), None])
    assert found is not None
    assert (found.chosen, found.why) == (2e-4, "losses_lost")
    assert [one.outcome for one in found.trials] == [MEASURED] * 3
    assert "2e-4" in found.reason
    assert rates_in(found, GERMAN) != found.reason
    found = pick(rates.with_trial(1, outcome=DIVERGED), [losses(1.5), None, None])
    assert found is not None
    assert (found.chosen, found.why) == (1e-4, "own_diverged")


def test_a_small_run_without_held_out_rows_ends_the_comparison() -> None:
    """The run trains: with its own rate, or with one that did not diverge."""
    without = result().model_copy(update={"held_out": None, "best_eval_loss": None})
    verdict = judge_trial(ended(ExitCode.OK, without))
    rates = verdict.changes["rates"]
    assert (verdict.then, verdict.changes["next_stage"]) == (Next.GO_ON, Stage.TRAIN)
    assert (rates.chosen, rates.why, rates.seconds) == (2e-4, "losses_lost", 30.0)
    before = record().rates
    assert before is not None
    before = before.with_trial(1, outcome=DIVERGED)
    rates = judge_trial(ended(ExitCode.OK, without, record=record(rates=before))).changes["rates"]
    assert (rates.chosen, rates.why) == (1e-4, "own_diverged")


@pytest.mark.parametrize(
    ("hours", "seconds", "steps", "all_seconds", "is_enough"),
    [
        (None, 3000.0, 100, 3000.0, True),  # three thirds of the run
        (None, None, 100, None, True),
        (0.5, 3000.0, 20, 600.0, True),  # a third of the half hour
        (0.2, 3000.0, 8, 240.0, False),
    ],
)
def test_what_the_small_runs_will_cost(
    hours: float | None,
    seconds: float | None,
    steps: int,
    all_seconds: float | None,
    is_enough: bool,  # noqa: FBT001 - a row of the table
) -> None:
    """Steps and time of all together, and whether the run would be refused for it."""
    found = small_runs(3, total_steps=300, hours=hours, seconds=seconds)
    assert (found.count, found.steps, found.seconds) == (3, steps, all_seconds)
    assert found.is_enough is is_enough


def test_a_rate_that_diverged_wins_nothing_whatever_it_left() -> None:
    """Losses on the disk beside its word count no more than none; a trial without word diverged."""
    rates = tried(1e-4, 2e-4, 4e-4).with_trial(2, outcome=DIVERGED)
    found = pick(rates, [losses(2.0), losses(1.5), losses(0.1)])
    assert found is not None
    assert (found.chosen, found.trial(4e-4).eval_loss) == (2e-4, None)
    silent = tried(1e-4, 2e-4)
    silent = silent.model_copy(
        update={"trials": (silent.trials[0].model_copy(update={"outcome": None}), silent.trials[1])}
    )
    found = pick(silent, [None, losses(1.5)])
    assert found is not None
    assert found.trial(1e-4).outcome == DIVERGED


@pytest.mark.parametrize(
    ("rate", "said", "german"),
    [(2e-4, "2e-4", "2e-4"), (1.5e-5, "1.5e-5", "1,5e-5"), (0.001, "1e-3", "1e-3"), (1, "1e0", "")],
)
def test_a_rate_is_written_as_people_write_it(rate: float, said: str, german: str) -> None:
    """No row of zeros to count."""
    assert in_words(rate) == said
    assert in_words(rate, GERMAN) == (german or said)


@pytest.mark.parametrize(
    ("extra", "field", "says"),
    [
        ("try: {learning_rate: 2e-4}", "try.learning_rate", "one learning rate alone"),
        ("try: {learning_rate: [2e-4, 0.0002]}", "try.learning_rate", "twice"),
        ("try: {learning_rate: [2e-4, -1]}", "try.learning_rate", "too small"),
        ("try: {learning_rate: [2e-4, 2]}", "try.learning_rate", "too large"),
        ("try: {learning_rate: [2e-4, fast]}", "try.learning_rate", "not a number"),
        ("try: {learning_rate: [2e-4, [1e-4]]}", "try.learning_rate", "one number"),
        (
            "try: {learning_rate: [.1, .2, .3, .4, .5, .6, .7, .8, .9]}",
            "try.learning_rate",
            "too long",
        ),
        ("try: {hours: 6}", "try", "which learning rates"),
        ("try: {learning_rate: [1e-4, 2e-4, 4e-4], hours: 5min}", "try.hours", "33 s"),
        ("try: {learning_rate: [1e-4, 2e-4]}\nlimits: {hours: 2min}", "limits.hours", "20 s"),
        ("try: {learning_rate: [1e-4, 2e-4], hours: 6}\nlimits: {hours: 6}", "try.hours", "both"),
        ("try: {learning_rate: [1e-4, 2e-4]}\neval_split: 0", "try.learning_rate", "held out"),
        ("training: {learning_rate: [1e-4, 2e-4]}", "training.learning_rate", "not a list"),
    ],
)
def test_what_cannot_be_tried_is_refused(extra: str, field: str, says: str) -> None:
    """At validation, by the field's name and with what to write instead."""
    with pytest.raises(SpecError) as refused:
        spec(extra)
    (problem,) = refused.value.problems
    assert problem.field == field
    assert says in problem.message
    assert problem.hint or problem.allowed


def test_what_can_be_tried_is_read() -> None:
    """Rates as people write them, hours for all that is trained, beside a schedule."""
    found = spec(
        "try: {learning_rate: [1e-4, '2e-4', 0.0004], hours: 90min}\n"
        'schedule: "0 2 * * sun"\nstart_from: current'
    )
    assert found.rates_tried == [1e-4, 2e-4, 4e-4]
    assert found.hours == 1.5
    assert spec("limits: {hours: 3}").hours == 3


def record(**fields: Any) -> RunRecord:
    """Give a run whose rates are tried."""
    rates = begin((1e-4, 2e-4, 4e-4), wanted=2e-4).model_copy(update={"steps": 20})
    return RunRecord.model_validate(
        {
            "job": "a",
            "run_id": RUN.run_id,
            "state": State.TRAINING,
            "next_stage": Stage.RATES,
            "created_at": datetime(2026, 11, 27, 12, tzinfo=UTC),
            "file_name": "a.yaml",
            "spec_sha256": "0" * 64,
            "total_steps": 60,
            "batch_plan": PLAN,
            "tries": {"rates": 1},
            "rates": rates,
            **fields,
        }
    )


def ended(code: int, result: TrainResult | None = None, **more: Any) -> TrialEnd:
    """Say how a child ended."""
    given = {"record": record(), "asked": False, "seconds": 30.0, **more}
    return TrialEnd(run=RUN, home=RUN.rate(1), code=code, result=result, **given)


def result(steps: int = 20, **more: Any) -> TrainResult:
    """Give what a small run left."""
    given = {"outcome": "succeeded", "batch_plan": PLAN, "last_step": steps, **more}
    return TrainResult(held_out=losses(2.0), best_eval_loss=2.0, **given)


def test_a_small_run_that_is_done_is_noted_before_the_next_one() -> None:
    """Its loss and its time are in the record, and the next rate is next."""
    verdict = judge_trial(ended(ExitCode.OK, result()))
    rates = verdict.changes["rates"]
    assert verdict.then is Next.GO_ON
    assert (rates.next_trial, rates.is_timed, rates.seconds) == (1, True, 30.0)
    assert rates.trials[0].eval_loss == 2.0
    assert "next_stage" not in verdict.changes
    assert verdict.changes["tries"] == {"rates": 0}


def test_a_rate_that_diverges_at_once_tells_nothing_of_the_time() -> None:
    """The others are still held to the hours that were given."""
    rates = judge_trial(ended(ExitCode.DIVERGED)).changes["rates"]
    assert (rates.trials[0].outcome, rates.is_timed) == (DIVERGED, False)


@pytest.mark.parametrize("asked", [True, False])
def test_the_last_of_all_that_diverge_while_the_box_stops_is_tried_again(asked: bool) -> None:  # noqa: FBT001
    """A run that is asked to stop does not end; the next start finds a rate to try."""
    before = record()
    assert before.rates is not None
    rates = before.rates
    for at in (0, 1):
        rates = rates.with_trial(at, outcome=DIVERGED)
    end = ended(
        ExitCode.DIVERGED, record=before.but(rates=rates), asked=asked, earlier=(None, None)
    )
    kept = judge_trial(end).changes["rates"]
    assert kept.next_trial == (2 if asked else None)


@pytest.mark.parametrize(
    ("steps", "chosen", "why"), [(12, None, ""), (10, None, ""), (9, 2e-4, "too_slow")]
)
def test_the_time_of_the_first_decides_the_steps_of_all(
    steps: int, chosen: float | None, why: str
) -> None:
    """It is done again with as many, so that all fall alike; too few are not compared."""
    verdict = judge_trial(ended(ExitCode.OK, result(steps)))
    rates = verdict.changes["rates"]
    assert (rates.steps, rates.chosen, rates.why) == (steps, chosen, why)
    assert rates.trials[0].outcome is None
    assert verdict.changes.get("next_stage") == (Stage.TRAIN if chosen else None)


@pytest.mark.parametrize(
    ("end", "then", "changes"),
    [
        (ended(-9), Next.SAME_PLAN, {"state": State.INTERRUPTED, "batch_plan": PLAN}),
        (ended(-9, record=record(tries={"rates": 3})), Next.FAIL, {}),
        (ended(ExitCode.OK), Next.SAME_PLAN, {}),  # it said ok and left nothing
        (ended(ExitCode.INTERRUPTED, asked=True), Next.SAME_PLAN, {"tries": {"rates": 0}}),
        (ended(ExitCode.GPU_LOST), Next.HOLD, {"tries": {"rates": 0}}),
        (ended(ExitCode.BAD_INPUT), Next.REJECT, {}),
        (ended(ExitCode.OUT_OF_GPU_MEMORY, result()), Next.FAIL, {}),  # nothing smaller is left
        (
            ended(
                ExitCode.OUT_OF_GPU_MEMORY,
                result(
                    next_batch_plan=BatchPlan(
                        per_device_batch_size=2, gradient_accumulation_steps=8
                    )
                ),
                record=record(tries={"rates": 3}),
            ),
            Next.SMALLER_PLAN,
            {
                "batch_plan": BatchPlan(per_device_batch_size=2, gradient_accumulation_steps=8),
                "tries": {"rates": 0},
            },
        ),
    ],
)
def test_other_ends_are_judged_as_those_of_any_stage(
    end: TrialEnd, then: Next, changes: dict[str, Any]
) -> None:
    """The rate that was tried is tried again, or the run ends; what it worked is counted."""
    verdict = judge_trial(end)
    assert verdict.then is then
    assert {name: verdict.changes[name] for name in changes} == changes
    rates = verdict.changes["rates"]
    assert (rates.trials[0].outcome, rates.trials[0].seconds) == (None, 30.0)


@pytest.mark.parametrize(
    ("end", "left"),
    [
        (ended(ExitCode.OK, result()), False),
        (ended(ExitCode.OK, result(), smaller_plan=SmallerPlan(batch_plan=PLAN)), False),
        (
            ended(
                ExitCode.OK,
                result(),
                smaller_plan=SmallerPlan(batch_plan=PLAN, left_fast_path=True),
            ),
            True,
        ),
        (ended(ExitCode.OK), True),  # it said ok and left nothing
        (ended(-11), True),
        (ended(-9, hung="nothing was written for 10 minutes"), True),
        (ended(-9), False),
        (ended(ExitCode.OUT_OF_GPU_MEMORY, result()), False),
        (ended(ExitCode.UNEXPECTED, asked=True), False),
    ],
)
def test_a_fast_path_that_failed_in_a_small_run_is_not_tried_again(
    end: TrialEnd,
    left: bool,  # noqa: FBT001  (pytest hands arguments over by name)
    tmp_path: Path,
) -> None:
    """Neither by the next small run nor by the training; a rate in between does not forget it."""
    rates = judge_trial(end).changes["rates"]
    assert rates.left_fast_path is left
    after = end.record.but(rates=rates)
    again = judge_trial(ended(ExitCode.OK, result(), record=after)).changes["rates"]
    assert again.left_fast_path is left
    settings = Settings(jobs_dir=tmp_path, outputs_dir=tmp_path, models_dir=tmp_path)
    attempt = {"number": 1, "batch_plan": PLAN, "started_at": after.created_at, "first_step": 1}
    asked = spec("try: {learning_rate: [1e-4, 2e-4, 4e-4]}")
    for stage, changes in ((Stage.RATES, {}), (Stage.TRAIN, {"attempts": (attempt,)})):
        now = after.but(**changes)
        plan = make_plan(stage, settings=settings, run=RUN, record=now, spec=asked)
        assert isinstance(plan, TrainPlan)
        assert plan.fast is (False if left else None)


def test_a_time_too_short_by_the_forecast_is_refused_with_figures() -> None:
    """Before anything is trained: how many steps there would be, and the hours that are enough."""
    new = record(rates=begin((1e-4, 2e-4, 4e-4), wanted=2e-4))
    asked = spec("try: {learning_rate: [1e-4, 2e-4, 4e-4], hours: 15min}")
    refused = size_rates(new, asked, {"seconds": 60 * 60.0})  # a minute each step
    assert isinstance(refused, ErrorFacts)
    assert "1 min 40 s" in refused.message
    assert "1 step, and fewer than 10" in refused.message
    assert refused.advice is not None
    assert math.isclose(float(refused.advice.split("at least ")[1].split(",")[0]), 1.5)
    sized = size_rates(new, asked, {"seconds": 60 * 5.0})
    assert isinstance(sized, RatesTried)
    assert sized.steps == 20
