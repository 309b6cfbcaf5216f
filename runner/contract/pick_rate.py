"""Pick a learning rate: how long each one is tried, and which one the run trains with.

Pure decisions. The measure is that of the gate: the loss of the answers on the same held-out rows,
in pairs, with its 95% interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from runner.contract.intervals import paired_interval
from runner.contract.rates import DIVERGED, MEASURED, HeldOutLosses, RatesTried, RateTrial

TIME_SHARE = 1 / 3
"""Of the hours given, for all small runs together: the run itself keeps twice as much."""
STEP_SHARE = 1 / 3
"""Of the run's own steps, for each small run at most: more would be no small run."""
FEWEST_STEPS = 10
"""Fewer say more of the warm-up than of the rate; a run that has fewer is tried as a whole."""
FEWEST_SECONDS = 60.0
"""Of each small run: the time to load a model and try its largest batch is as long."""


def begin(rates: Sequence[float], *, wanted: float) -> RatesTried:
    """Begin a comparison; of the rates, the one nearest to ``wanted`` (in ratio) is the own."""
    own = min(rates, key=lambda rate: (abs(math.log(rate / wanted)), rate))
    return RatesTried(own=own, trials=tuple(RateTrial(learning_rate=rate) for rate in rates))


def seconds_each(hours: float | None, count: int) -> float | None:
    """Give the time of each small run; None: as long as its steps take."""
    return None if hours is None else hours * 3600.0 * TIME_SHARE / count


def steps_each(total_steps: int, *, seconds: float | None, step_seconds: float | None) -> int:
    """Choose the steps of each small run, the same for all: fewer than `fewest` are too few.

    Args:
        total_steps: of the run.
        seconds: the time of each small run; None: any.
        step_seconds: what a step takes by the forecast; None: not known, the first one shows it.
    """
    steps = max(min(FEWEST_STEPS, total_steps), math.ceil(total_steps * STEP_SHARE))
    if seconds is not None and step_seconds:
        steps = min(steps, int(seconds / step_seconds))
    return steps


def fewest(total_steps: int) -> int:
    """Give the fewest steps that a small run of such a run can have."""
    return min(FEWEST_STEPS, total_steps)


@dataclass(frozen=True, kw_only=True)
class SmallRuns:
    """What comparing learning rates costs before the training, by the forecast."""

    count: int
    steps: int
    """Of each."""
    seconds: float | None
    """Of all together; None: what a step takes is not known."""
    is_enough: bool
    """The time given is enough for `fewest` steps of each; else the run is refused."""


def small_runs(
    count: int, *, total_steps: int, hours: float | None, seconds: float | None
) -> SmallRuns:
    """Forecast the small runs of so many rates.

    Args:
        count: of the rates.
        total_steps: of the run.
        hours: given for small runs and training together; None: any.
        seconds: of all steps of the run, by the forecast; None: not known.
    """
    step_seconds = seconds / total_steps if seconds and total_steps else None
    steps = steps_each(total_steps, seconds=seconds_each(hours, count), step_seconds=step_seconds)
    return SmallRuns(
        count=count,
        steps=steps,
        seconds=step_seconds and count * steps * step_seconds,
        is_enough=steps >= fewest(total_steps),
    )


def pick(rates: RatesTried, losses: Sequence[HeldOutLosses | None]) -> RatesTried | None:
    """Choose the rate that the run trains with; None: the loss became useless with each of them.

    The lowest loss wins only where its whole interval against the own rate lies below zero: ties
    and differences within chance go to the own rate.

    Args:
        rates: with every small run done.
        losses: each small run's, in their order; None: it diverged, or they are lost.
    """
    by_rate = {
        one.learning_rate: found
        for one, found in zip(rates.trials, losses, strict=True)
        if one.outcome == MEASURED and found is not None
    }
    if any(one.outcome == MEASURED and one.learning_rate not in by_rate for one in rates.trials):
        return without_losses(rates)
    own = by_rate.get(rates.own)
    compared = rates.model_copy(
        update={"trials": tuple(_against(one, by_rate, own) for one in rates.trials)}
    )
    measured = [one for one in compared.trials if one.eval_loss is not None]
    if not measured:
        return None
    best = min(measured, key=lambda one: one.eval_loss or 0.0)
    if own is None:
        return compared.choosing(best.learning_rate, "own_diverged")
    own_loss = compared.trial(rates.own).eval_loss
    if best.eval_loss == own_loss:
        return compared.choosing(rates.own, "own_best")
    is_shown = best.low is not None and best.low > 0
    if is_shown:
        return compared.choosing(best.learning_rate, "shown")
    return compared.choosing(rates.own, "within_chance")


def without_losses(rates: RatesTried) -> RatesTried:
    """Choose where what a small run measured row by row is lost: nothing can be compared in pairs.

    The own rate it is, unless it diverged: then the one with the lowest loss that is noted, or the
    lowest of those that did not diverge.
    """
    left = [one for one in rates.trials if one.outcome != DIVERGED]
    if any(one.learning_rate == rates.own for one in left):
        return rates.choosing(rates.own, "losses_lost")
    best = min(
        left,
        key=lambda one: (math.inf if one.eval_loss is None else one.eval_loss, one.learning_rate),
    )
    return rates.choosing(best.learning_rate, "own_diverged")


def _against(
    one: RateTrial, by_rate: dict[float, HeldOutLosses], own: HeldOutLosses | None
) -> RateTrial:
    """Compare a small run with the own rate's, row by row."""
    mine = by_rate.get(one.learning_rate)
    if mine is None:
        return one.model_copy(update={"eval_loss": None, "outcome": one.outcome or DIVERGED})
    loss = math.fsum(mine.sums) / max(1, sum(mine.tokens))
    changes: dict[str, float] = {"eval_loss": loss}
    if own is not None and own is not mine:
        change = loss - math.fsum(own.sums) / max(1, sum(own.tokens))
        changes["difference"] = -change
        interval = None
        if len(own.sums) == len(mine.sums):  # an older runner's are of rows, not of clusters
            interval = paired_interval(own.sums, mine.sums, own.tokens)
        if interval is not None:
            changes |= {"low": -interval[1], "high": -interval[0]}
    return one.model_copy(update=changes)
