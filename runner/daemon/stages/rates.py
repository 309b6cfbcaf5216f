"""Learning rates (`try:` in a spec): small runs before the training, each a child of its own.

They stand between prepare and train, and start from the same adapter, rows and order as the run
will. What one measured is in the record before the next one starts, so none is done twice; one that
was cut off goes on from its own checkpoints.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from runner.contract import pick_rate
from runner.contract.batch import BatchPlan, smaller
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.rates import DIVERGED, MEASURED, HeldOutLosses, RatesTried, in_words
from runner.contract.record import ErrorFacts, RunRecord
from runner.contract.stage_io import SmallerPlan, TrainResult
from runner.contract.states import Stage, State
from runner.daemon.stages import outcome
from runner.daemon.stages.judge_stage import StageEnd, StageVerdict, judge_stage
from runner.daemon.stages.plans import read_answer
from runner.daemon.stages.retry import Next, is_defect
from runner.exit_codes import ExitCode
from runner.spec.spec import JobSpec
from runner.words import counted, duration

_RATE_ADVICE = "Look at the data, and name lower rates: a tenth of these."


def begin_rates(spec: JobSpec, prepared: dict[str, Any]) -> dict[str, Any]:
    """Give what prepare changes in the record where the spec names rates to try."""
    if not spec.rates_tried:
        return {}
    rates = pick_rate.begin(spec.rates_tried, wanted=spec.training.learning_rate)
    if not prepared["metrics"].get("eval_rows"):
        return {"rates": rates.choosing(rates.own, "nothing_held_out")}
    return {"rates": rates, "next_stage": Stage.RATES}


def size_rates(record: RunRecord, spec: JobSpec, facts: dict[str, Any]) -> RatesTried | ErrorFacts:
    """Decide how many steps each small run has, before the first one; or refuse the time given.

    Args:
        record: the run.
        spec: its spec.
        facts: the forecast.
    """
    rates, total = record.rates, record.total_steps or 0
    assert rates is not None
    if rates.steps:
        return rates
    seconds = pick_rate.seconds_each(spec.hours, len(rates.trials))
    forecast = facts.get("seconds")
    step_seconds = forecast / total if isinstance(forecast, int | float) and total else None
    steps = pick_rate.steps_each(total, seconds=seconds, step_seconds=step_seconds)
    least = pick_rate.fewest(total)
    if steps >= least or step_seconds is None or seconds is None:
        return rates.model_copy(update={"steps": max(steps, 1)})
    enough = least * step_seconds * len(rates.trials) / pick_rate.TIME_SHARE
    return ErrorFacts(
        kind="bad_spec",
        message=f"try: a third of {spec.hours:g} h is {duration(seconds)} for each of the "
        f"{len(rates.trials)} learning rates: {counted(steps, 'step')}, and fewer than {least} say "
        "nothing",
        advice=f"Give try.hours at least {enough / 3600:.1f}, or fewer rates, or leave try out.",
    )


@dataclass(frozen=True, kw_only=True)
class TrialEnd:
    """All that is known of how a small run's child ended."""

    run: RunFolder
    home: RunFolder
    """The small run's own folder."""
    record: RunRecord
    """As it was while the child ran."""
    code: int
    asked: bool
    """It was asked to stop."""
    seconds: float
    hung: str = ""
    result: TrainResult | None = None
    error: ErrorFacts | None = None
    smaller_plan: SmallerPlan | None = None
    """What it went on with by itself."""
    earlier: tuple[HeldOutLosses | None, ...] = ()
    """What those before it measured; None: one diverged."""


def read_trial(
    run: RunFolder,
    home: RunFolder,
    record: RunRecord,
    code: int,
    *,
    asked: bool,
    seconds: float,
    hung: str,
    smaller_plan: SmallerPlan | None,
) -> TrialEnd:
    """Put together what is known of a small run's end."""
    assert record.rates is not None
    at = record.rates.next_trial or 0
    folder = StageFolder(home.attempt(1, record.rates.trials[at].token))
    result, error = read_answer(folder.result, TrainResult)
    return TrialEnd(
        run=run,
        home=home,
        record=record,
        code=code,
        asked=asked,
        seconds=seconds,
        hung="" if asked else hung,
        result=result,
        error=error,
        smaller_plan=smaller_plan,
        earlier=tuple(
            held_out_of(run, number, one.token)
            for number, one in enumerate(record.rates.trials[:at], 1)
        ),
    )


def held_out_of(run: RunFolder, number: int, token: str) -> HeldOutLosses | None:
    """Read what a small run that is done measured; None: it diverged, or that cannot be read."""
    found, _ = read_answer(StageFolder(run.rate(number).attempt(1, token)).result, TrainResult)
    return found.held_out if found else None


def judge_trial(end: TrialEnd) -> StageVerdict:
    """Decide what a small run's end means: the next rate, the training, or the same one again."""
    record, result = end.record, end.result
    rates = record.rates
    assert rates is not None
    at = rates.next_trial
    assert at is not None
    told = result or end.smaller_plan
    plan = told.batch_plan if told else record.batch_plan
    code = end.code
    if code == ExitCode.OK and result is None:
        code = ExitCode.UNEXPECTED
    left = end.smaller_plan is not None and end.smaller_plan.left_fast_path
    left = left or (not end.asked and is_defect(code, hung=bool(end.hung)))
    spent = rates.with_trial(at, seconds=rates.trials[at].seconds + end.seconds)
    spent = spent.model_copy(update={"left_fast_path": rates.left_fast_path or left})
    if code == ExitCode.OK and result is not None and result.held_out is None:
        # The held-out rows are gone from the disk: no small run can be measured, and all can train.
        return _go_on(pick_rate.without_losses(spent), plan, record)
    if code == ExitCode.OK and result is not None and result.last_step < rates.steps:
        return _go_on(_with_fewer_steps(spent, result.last_step, record), plan, record)
    if code == ExitCode.OK and result is not None:
        timed = spent.model_copy(update={"is_timed": True})
        done = timed.with_trial(at, outcome=MEASURED, eval_loss=result.best_eval_loss)
        return _done(end, done, (*end.earlier, result.held_out), plan)
    if code == ExitCode.DIVERGED:
        done = spent.with_trial(at, outcome=DIVERGED)
        return _done(end, done, (*end.earlier, None), plan)
    changes = {"rates": spent, "batch_plan": plan}
    if code == ExitCode.OUT_OF_GPU_MEMORY:
        less = result.next_batch_plan if result else _smaller(plan, record)
        if less is not None:
            tries = {**record.tries, Stage.RATES.value: 0}
            more = {"batch_plan": less, "tries": tries, "state": State.INTERRUPTED}
            error = end.error or outcome.facts(Stage.RATES, code, end.run, record)
            return StageVerdict(
                code=code, then=Next.SMALLER_PLAN, error=error, changes={**changes, **more}
            )
    verdict = judge_stage(
        StageEnd(
            run=end.run,
            record=record,
            stage=Stage.RATES,
            code=code,
            asked=end.asked,
            hung=end.hung,
            error=end.error,
        )
    )
    return StageVerdict(
        code=verdict.code,
        then=verdict.then,
        error=verdict.error,
        changes={**changes, **verdict.changes},
    )


def _smaller(plan: BatchPlan | None, record: RunRecord) -> BatchPlan | None:
    """Choose the plan after an out-of-memory that the child could say nothing of."""
    if plan is None:
        return None
    return smaller(plan, lengths=[int(record.forecast.get("longest", 1))])


def _go_on(rates: RatesTried, plan: BatchPlan | None, record: RunRecord) -> StageVerdict:
    """Go on to the next rate, or to the training once one is chosen."""
    changes: dict[str, Any] = {
        "rates": rates,
        "batch_plan": plan,
        "falls": None,
        "tries": {**record.tries, Stage.RATES.value: 0},
    }
    if rates.chosen is not None:
        changes["next_stage"] = Stage.TRAIN
    nothing = ErrorFacts(kind="none", message="", advice=None)
    return StageVerdict(code=ExitCode.OK, then=Next.GO_ON, error=nothing, changes=changes)


def _with_fewer_steps(rates: RatesTried, steps: int, record: RunRecord) -> RatesTried:
    """Give every small run the steps that the first one's time was enough for.

    It is done again, for its rate has not fallen as it does by a run's end.
    """
    if steps < pick_rate.fewest(record.total_steps or 0):
        return rates.model_copy(update={"steps": steps}).choosing(rates.own, "too_slow")
    return rates.model_copy(update={"steps": steps, "is_timed": True})


def _done(
    end: TrialEnd,
    rates: RatesTried,
    losses: tuple[HeldOutLosses | None, ...],
    plan: BatchPlan | None,
) -> StageVerdict:
    if rates.next_trial is not None:
        return _go_on(rates, plan, end.record)
    chosen = pick_rate.pick(rates, losses)
    if chosen is not None:
        return _go_on(chosen, plan, end.record)
    tried = ", ".join(in_words(one.learning_rate) for one in rates.trials)
    error = ErrorFacts(
        kind="diverged",
        message=f"The loss became useless with each of the learning rates tried: {tried}.",
        advice=_RATE_ADVICE,
    )
    # A run that is asked to stop does not end: its last rate is tried once more then.
    kept = end.record.rates if end.asked else rates
    return StageVerdict(
        code=ExitCode.DIVERGED, then=Next.FAIL, error=error, changes={"rates": kept}
    )


def drop_checkpoints(run: RunFolder, record: RunRecord) -> None:
    """Remove the checkpoints of small runs that are done: only what they measured is wanted.

    Once the run has ended, none goes on.
    """
    rates = record.rates
    assert rates is not None
    at = None if record.state.is_final else rates.next_trial
    for number in range(1, len(rates.trials) + 1 if at is None else at + 1):
        shutil.rmtree(run.rate(number).checkpoints, ignore_errors=True)
