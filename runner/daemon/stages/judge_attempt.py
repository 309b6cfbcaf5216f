"""Judge an attempt: what its end means for its run, from what is known of it; nothing is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner.clock import now
from runner.contract.batch import BatchPlan, describe_change, smaller
from runner.contract.findings import in_short
from runner.contract.layout import RunFolder
from runner.contract.record import Attempt, ErrorFacts, RunRecord
from runner.contract.row_losses import with_more
from runner.contract.stage_io import SmallerPlan, TrainResult
from runner.contract.states import Stage, State
from runner.daemon.stages import outcome
from runner.daemon.stages.falls import after_fall
from runner.daemon.stages.resume_point import ResumePoint
from runner.daemon.stages.retry import (
    ASKED,
    BOX_LOST,
    NOT_THE_RUN,
    Next,
    after_attempt,
    rule_for,
)
from runner.exit_codes import ExitCode


@dataclass(frozen=True, kw_only=True)
class AttemptEnd:
    """All that is known of how an attempt ended."""

    run: RunFolder
    record: RunRecord
    """As it was while the attempt ran: its newest attempt is the open one."""
    code: int
    """What the child's status means."""
    status: int
    """The child's own; negative: the signal that ended it."""
    asked: bool
    """It was asked to stop."""
    seconds: float
    """How long it worked."""
    hung: str = ""
    """What was seen of its standing still, where that is why it was ended."""
    pause: str = ""
    """Why it was asked to leave a checkpoint, where the box was in trouble."""
    doubt: str = ""
    """What is known of an end that may have been the kernel's doing."""
    result: TrainResult | None = None
    error: ErrorFacts | None = None
    """What it said itself."""
    smaller_plan: SmallerPlan | None = None
    """What it went on with by itself."""
    resumes: ResumePoint | None = None
    """Where the next attempt would go on; not looked for after a success."""

    @property
    def attempt(self) -> Attempt:
        """The attempt that ended."""
        return self.record.attempts[-1]

    @property
    def batch_plan(self) -> BatchPlan:
        """The plan that was in force at its end."""
        if self.result is not None:
            return self.result.batch_plan
        return self.smaller_plan.batch_plan if self.smaller_plan else self.attempt.batch_plan

    @property
    def last_step(self) -> int:
        """The last step that need not be done again."""
        if self.resumes is not None:
            return self.resumes.step
        return self.result.last_step if self.result else 0


@dataclass(frozen=True, kw_only=True)
class AttemptVerdict:
    """What follows from an attempt's end."""

    attempt: Attempt
    """Closed."""
    next_plan: BatchPlan | None
    """A smaller plan for the next one."""
    then: Next
    reason: str | None
    error: ErrorFacts


def judge_attempt(end: AttemptEnd) -> AttemptVerdict:
    """Decide what an attempt's end means."""
    next_plan = _next_plan(end)
    reason = _reason(end, next_plan)
    hung = bool(end.hung)
    not_its_fault = reason in NOT_THE_RUN
    closed = end.attempt.model_copy(
        update={
            "ended_at": now(not_before=end.attempt.started_at),
            "seconds": end.seconds,
            "outcome": "interrupted" if not_its_fault else rule_for(end.code, hung=hung).outcome,
            "exit_code": end.status,
            "last_step": end.last_step,
            "peak_gpu_memory_bytes": end.result.peak_gpu_memory_bytes if end.result else None,
            "left_fast_path": end.smaller_plan is not None and end.smaller_plan.left_fast_path,
            "reason": reason,
        }
    )
    return AttemptVerdict(
        attempt=closed,
        next_plan=next_plan,
        then=after_attempt(
            end.code,
            attempts=(*end.record.attempts[:-1], closed),
            smaller_exists=next_plan is not None,
        ),
        reason=reason,
        error=_error(end),
    )


def attempt_changes(end: AttemptEnd, verdict: AttemptVerdict) -> dict[str, Any]:
    """Give what the record says of an attempt's end."""
    notes = (
        *(end.result.shortfalls if end.result else ()),
        *(end.resumes.notes if end.resumes else ()),
    )
    changes: dict[str, Any] = {
        "waiting": None,
        "attempts": (*end.record.attempts[:-1], verdict.attempt),
        "batch_plan": verdict.next_plan or end.batch_plan,
        "shortfalls": outcome.joined(end.record.shortfalls, notes),
    }
    if verdict.attempt.got_further or verdict.then is Next.GO_ON:
        changes["falls"] = None
    elif verdict.reason == BOX_LOST:  # it may be the job that brings one box down after the other
        changes["falls"] = after_fall(end.record.falls, at=now())
    if end.result is not None:
        changes |= {
            "findings": in_short(with_more(end.record.findings, end.result.findings)),
            "environment": {**end.record.environment, **end.result.environment},
            "metrics": {
                **end.record.metrics,
                **end.result.metrics,
                "best_checkpoint": end.result.best_checkpoint,
                "best_eval_loss": end.result.best_eval_loss,
            },
        }
    if verdict.then is Next.GO_ON:
        changes |= {"state": State.EXPORTING, "next_stage": Stage.EXPORT}
    elif end.asked or verdict.then not in (Next.REJECT, Next.FAIL):
        changes["state"] = State.INTERRUPTED
    return changes


def _next_plan(end: AttemptEnd) -> BatchPlan | None:
    if end.code != ExitCode.OUT_OF_GPU_MEMORY:
        return None
    if end.result is not None:
        return end.result.next_batch_plan
    return smaller(end.batch_plan, lengths=[int(end.record.forecast.get("longest", 1))])


def _reason(end: AttemptEnd, next_plan: BatchPlan | None) -> str | None:
    plan, given = end.batch_plan, end.attempt.batch_plan
    if end.code == ExitCode.OK:
        return None if plan == given else describe_change(given, plan)
    if end.hung:
        return f"{end.hung}; where it stood is in its {Stage.TRAIN}.log"
    if end.asked:
        return end.pause or ASKED
    if next_plan is not None and next_plan != plan:
        return describe_change(plan, next_plan)
    return end.error.message if end.error else end.doubt or outcome.how(end.code)


def _error(end: AttemptEnd) -> ErrorFacts:
    if end.hung and end.code != ExitCode.OK:
        return outcome.hung(Stage.TRAIN, end.hung, end.run, end.record)
    return end.error or outcome.facts(Stage.TRAIN, end.code, end.run, end.record)
