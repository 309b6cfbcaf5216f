"""The gate: whether a run's adapter takes the place of the one in use, and why.

A pure decision. It errs towards what is in use: the new one must be better on the same held-out
rows, with its whole interval, and nothing else that was measured may have fallen.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from runner.contract.evaluation import LOSS, Difference, Evaluation
from runner.contract.rating import Rating
from runner.contract.verdict import Outcome, Verdict, axis_name, score_name
from runner.language.speaker import ENGLISH, Speaker

When = Literal["better", "always", "never", "approved"]


MARKS = "marks"
"""Not a score of the evaluation: what experts found."""


class Decision(StrEnum):
    """What became of a run's adapter."""

    PROMOTED = "promoted"
    KEPT_OLD = "kept old"
    """What was in use stays so."""
    AWAITS = "awaits approval"


class Promotion(BaseModel):
    """What the gate decided about a run, with its reason."""

    model_config = ConfigDict(frozen=True, extra="allow")

    decision: Decision
    why: str
    """The name of the reason in the table of texts."""
    reason: str
    """For a person who is not an engineer."""
    against: str | None = None
    """The run that it was compared with; None: the base model."""
    metric: str = LOSS
    difference: float | None = None
    """Above zero the new one is better."""
    low: float | None = None
    high: float | None = None
    rows: int = 0
    names: str = ""
    """What has fallen, or which scores there are."""

    @property
    def is_promoted(self) -> bool:
        """Whether the run was to become current."""
        return self.decision is Decision.PROMOTED


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the spec asks for."""

    when: When = "better"
    metric: str | None = None
    """The score that decides; None: the one that the verdict goes by."""
    margin: float = 0.0
    """By so much the new one must be better."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known of the run."""

    verdict: Verdict | None
    evaluation: Evaluation | None
    current: str | None
    """The run in use at the moment of the decision."""
    compared_with: str | None
    """The run that it was evaluated against: another may have come into use meanwhile."""
    same_base: bool = True
    """The one in use stands on the same base model."""


def decide(wish: Wish, measured: Measured) -> Promotion:
    """Decide about a run that has succeeded."""
    current, verdict = measured.current, measured.verdict
    if wish.when == "never":
        return _made(Decision.KEPT_OLD, "never", measured)
    if wish.when == "approved":
        return _made(Decision.AWAITS, "approved", measured)
    if wish.when == "always":
        return _made(Decision.PROMOTED, "always", measured)
    if verdict is None or verdict.outcome is Outcome.CANNOT_TELL:
        return _made(Decision.KEPT_OLD, "cannot_tell", measured)
    if verdict.changed is False or verdict.outcome is Outcome.WORSE:
        return _made(Decision.KEPT_OLD, "not_better_than_base", measured)
    evaluation = measured.evaluation or Evaluation()
    fallen = [one.name for one in evaluation.axes if one.has_fallen]
    if fallen:
        return _made(Decision.KEPT_OLD, "axes", measured, names=", ".join(fallen))
    unknown = evaluation.unknown_axes
    if unknown:
        return _made(Decision.KEPT_OLD, "axes_unknown", measured, names=", ".join(unknown))
    if current is not None and not measured.same_base:
        return _made(Decision.KEPT_OLD, "other_base", measured)
    if current is not None and measured.compared_with != current:
        return _made(Decision.KEPT_OLD, "not_compared", measured)
    return _by_difference(wish, measured)


def unknown_current(job: str) -> Promotion:
    """Decide where nobody can say what is in use: nothing takes its place."""
    promotion = Promotion(decision=Decision.AWAITS, why="unknown_current", reason="", names=job)
    return promotion.model_copy(update={"reason": promotion_in(promotion, ENGLISH)})


def after_asking(found: Promotion, *, is_older: bool) -> Promotion:
    """Decide about a run that was evaluated again because somebody asked for it.

    Whoever measures does not mean to change what others use: what a person has put into use stays,
    and so does a run that is newer than this one.

    Args:
        found: what the gate would decide of a run that has just ended.
        is_older: what is in use came after this run, or a person has put it there.
    """
    if not found.is_promoted or not is_older:
        return found
    awaits = found.model_copy(update={"decision": Decision.AWAITS, "why": "again"})
    return awaits.model_copy(update={"reason": promotion_in(awaits, ENGLISH)})


def approved_by_marks(
    rating: Rating, *, is_against_current: bool, was_in_use: bool = False
) -> Promotion:
    """Decide by the marks of experts about a run whose spec says ``approved``.

    Args:
        rating: what they found.
        is_against_current: they compared it with what is in use now, or with the base model where
            nothing is.
        was_in_use: it was in use before, and somebody or something better took its place.
    """
    if was_in_use:
        decision, why = Decision.AWAITS, "marks_again"
    elif not is_against_current:
        decision, why = Decision.AWAITS, "marks_of_another"
    elif rating.is_better:
        decision, why = Decision.PROMOTED, "marks_better"
    else:
        decision, why = Decision.AWAITS, "marks_not_better"
    promotion = Promotion(
        decision=decision,
        why=why,
        reason="",
        against=rating.against_run,
        metric=MARKS,
        low=rating.low,
        high=rating.high,
        rows=rating.better + rating.worse,
    )
    return promotion.model_copy(update={"reason": promotion_in(promotion, ENGLISH)})


def _by_difference(wish: Wish, measured: Measured) -> Promotion:
    evaluation, verdict = measured.evaluation, measured.verdict
    metric = wish.metric or (evaluation.primary if evaluation else None) or LOSS
    found = _difference(evaluation, metric, against_current=measured.current is not None)
    if found is None and evaluation is not None and wish.metric and not evaluation.score(metric):
        names = ", ".join(one.name for one in evaluation.scores) or "none"
        return _made(Decision.KEPT_OLD, "no_metric", measured, metric=metric, names=names)
    if found is None:
        if measured.current is not None or wish.metric or wish.margin:
            return _made(Decision.KEPT_OLD, "not_compared", measured, metric=metric)
        assert verdict is not None
        is_better = verdict.outcome is Outcome.BETTER
        decision = Decision.PROMOTED if is_better else Decision.KEPT_OLD
        why = "better_than_base" if is_better else "not_better_than_base"
        return _made(decision, why, measured)
    is_better = found.is_better and found.difference >= wish.margin
    place = "current" if measured.current is not None else "base"
    if is_better:
        why = f"better_than_{place}"
    elif found.is_better:
        why = "margin"
    else:
        why = f"not_better_than_{place}"
    decision = Decision.PROMOTED if is_better else Decision.KEPT_OLD
    return _made(decision, why, measured, metric=metric, found=found)


def _difference(
    evaluation: Evaluation | None, metric: str, *, against_current: bool
) -> Difference | None:
    score = evaluation.score(metric) if evaluation else None
    if score is None:
        return None
    if against_current:
        return score.against_current
    if score.difference is None:
        return None
    return Difference(difference=score.difference, low=score.low, high=score.high, rows=score.rows)


def _made(
    decision: Decision,
    why: str,
    measured: Measured,
    *,
    metric: str = LOSS,
    found: Difference | None = None,
    names: str = "",
) -> Promotion:
    promotion = Promotion(
        decision=decision,
        why=why,
        reason="",
        against=measured.current,
        metric=metric,
        difference=found.difference if found else None,
        low=found.low if found else None,
        high=found.high if found else None,
        rows=found.rows if found else 0,
        names=names,
    )
    return promotion.model_copy(update={"reason": promotion_in(promotion, ENGLISH)})


def promotion_in(promotion: Promotion, speak: Speaker) -> str:
    """Say in a language what the gate decided and why."""
    if not speak.knows(f"promote_{promotion.why}"):
        return promotion.reason
    interval = ""
    if promotion.metric == MARKS and promotion.low is not None:
        low, high = speak.percent(promotion.low), speak.percent(promotion.high or 1.0)
        interval = speak("promote_interval_marks", low=low, high=high)
    elif promotion.low is not None and promotion.high is not None:
        interval = speak(
            "promote_interval",
            low=speak.number(promotion.low, "+.3f"),
            high=speak.number(promotion.high, "+.3f"),
            rows=speak("rows_count", count=promotion.rows),
        )
    said = speak(
        f"promote_{promotion.why}",
        run=promotion.against or "–",
        metric=promotion.metric,
        measure=score_name(promotion.metric, speak),
        names=_names(promotion, speak),
        difference=speak.number(promotion.difference, "+.3f"),
        interval=interval,
    )
    head = speak(f"promotion_{promotion.decision.name.lower()}")
    return f"{head} {said}"


def _names(promotion: Promotion, speak: Speaker) -> str:
    """Say the names of axes as the report does; those of scores are what a spec calls them."""
    if not promotion.why.startswith("axes"):
        return promotion.names
    return ", ".join(axis_name(name, speak) for name in promotion.names.split(", "))
