"""Turns the ends of children into what their runs' records say and into what comes next."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from runner.clock import now
from runner.contract.batch import describe_change, smaller
from runner.contract.layout import StageFolder
from runner.contract.record import ErrorFacts
from runner.contract.stage_io import EvaluateResult, ExportResult, PrepareResult, TrainResult
from runner.contract.states import Stage, State
from runner.daemon.book import Live
from runner.daemon.change_run import change, end_run, keep_waiting
from runner.daemon.daemon import Daemon
from runner.daemon.inbox.data_ready import named_files
from runner.daemon.stages import outcome
from runner.daemon.stages.follow_plans import plan_in_force
from runner.daemon.stages.host_memory import kernel_kills, killed_for_memory
from runner.daemon.stages.look_ahead import learn, look_ahead, why_not
from runner.daemon.stages.plans import read_answer, stage_folder
from runner.daemon.stages.process import Child
from runner.daemon.stages.resume_point import resume_point
from runner.daemon.stages.retry import (
    ASKED,
    NOT_THE_RUN,
    Next,
    after_attempt,
    after_stage,
    rule_for,
)
from runner.errors import RunnerError
from runner.exit_codes import ExitCode
from runner.files.crash_points import reached


def reap(daemon: Daemon, at: float) -> None:
    """Take up every child that has ended; hurry those that were asked to."""
    for live in list(daemon.book.runs.values()):
        with daemon.noting_trouble():
            if live.child is not None:
                _follow_child(daemon, live, live.child, at)
            elif live.cancel and not live.record.state.is_final:  # could not be written before
                end_run(daemon, live, State.CANCELLED, outcome.cancelled(live.cancel, live.run))


def _follow_child(daemon: Daemon, live: Live, child: Child, at: float) -> None:
    if daemon.stopping:
        child.ask_to_stop(at=at, grace_seconds=daemon.settings.grace_seconds)
    if daemon.hurry:
        child.kill()
    child.enforce(at)
    code = child.poll()
    if code is None:
        return
    assert live.stage is not None
    reached("stage ended", str(live.stage))
    if not live.end_said:
        daemon.say(live, f"{live.record.job}: {live.stage} ended", exit_code=code)
        live.end_said = True
    meant = code
    if not child.is_stopping and killed_for_memory(
        code, before=live.kernel_kills, after=kernel_kills()
    ):
        meant = ExitCode.OUT_OF_HOST_MEMORY
    asked = child.is_stopping and not (live.hung and not daemon.stopping)
    stage_ended(daemon, live, live.stage, meant, asked=asked, status=code)


def stage_ended(
    daemon: Daemon, live: Live, which: Stage, code: int, *, asked: bool, status: int | None = None
) -> None:
    """Close a stage; its child is forgotten only once the record says how it ended.

    ``code`` is what its end means; ``status``, where another, is how the child ended.
    """
    if which is Stage.TRAIN:
        attempt_ended(daemon, live, code, asked=asked, status=status)
    else:
        _other_ended(daemon, live, which, code, asked=asked)


def attempt_ended(
    daemon: Daemon, live: Live, code: int, *, asked: bool, status: int | None = None
) -> None:
    """Close the newest attempt by its exit status and by what it left."""
    record = live.record
    attempt = record.attempts[-1]
    folder = StageFolder(stage_folder(live.run, Stage.TRAIN, record))
    result, error = read_answer(folder.result, TrainResult)
    if code == ExitCode.OK and (result is None or result.best_checkpoint is None):
        code, result = ExitCode.UNEXPECTED, None
    if code == ExitCode.OK and result is not None:
        durable, notes = result.last_step, result.shortfalls
    else:
        found = resume_point(live.run)
        durable, notes = found.step, (*(result.shortfalls if result else ()), *found.notes)
    plan = result.batch_plan if result else plan_in_force(folder) or attempt.batch_plan
    next_plan = None
    if code == ExitCode.OUT_OF_GPU_MEMORY:
        longest = [int(record.forecast.get("longest", 1))]
        next_plan = smaller(plan, lengths=longest) if result is None else result.next_batch_plan
    reason: str | None = error.message if error else outcome.how(code)
    hung = bool(live.hung) and not asked
    if hung and code != ExitCode.OK:
        reason = f"{live.hung}; where it stood is in its {Stage.TRAIN}.log"
        error = outcome.hung(Stage.TRAIN, live.hung, live.run, record)
    elif asked and code != ExitCode.OK:
        reason = live.pause or ASKED
    elif next_plan is not None and next_plan != plan:
        reason = describe_change(plan, next_plan)
    elif code == ExitCode.OK:
        reason = None if plan == attempt.batch_plan else describe_change(attempt.batch_plan, plan)
    closed = attempt.model_copy(
        update={
            "ended_at": now(),
            "outcome": "interrupted"
            if reason in NOT_THE_RUN
            else rule_for(code, hung=hung).outcome,
            "exit_code": code if status is None else status,
            "last_step": durable,
            "peak_gpu_memory_bytes": result.peak_gpu_memory_bytes if result else None,
            "reason": reason,
        }
    )
    changes: dict[str, Any] = {
        "attempts": (*record.attempts[:-1], closed),
        "batch_plan": next_plan or plan,
        "shortfalls": outcome.joined(record.shortfalls, notes),
    }
    gpu = daemon.gpu.memory_at(time.monotonic(), anew=code == ExitCode.OUT_OF_GPU_MEMORY)
    if result is not None:
        if code == ExitCode.OK and result.peak_gpu_memory_bytes is not None:
            facts = record.forecast
            if plan != attempt.batch_plan:  # the probe made it smaller: compare like with like
                now_in_force = record.but(batch_plan=plan)
                facts = look_ahead(daemon.settings, live.run, now_in_force, live.spec, gpu).facts
            peak = result.peak_gpu_memory_bytes
            changes["forecast"] = {**facts, "measured_gpu_memory_bytes": peak}
            learn(daemon.settings, live.run, record, live.spec, result, gpu=gpu)
        changes |= {
            "environment": {**record.environment, **result.environment},
            "metrics": {
                **record.metrics,
                **result.metrics,
                "best_checkpoint": result.best_checkpoint,
                "best_eval_loss": result.best_eval_loss,
            },
        }
    then = after_attempt(code, attempts=changes["attempts"], smaller_exists=next_plan is not None)
    if then is Next.FAIL and code == ExitCode.OUT_OF_GPU_MEMORY:
        why = why_not(daemon.settings, live.run, record.but(**changes), live.spec, gpu)
        if isinstance(why, str):
            then = Next.SMALLER_PLAN  # as soon as there is room: the next start waits for it
        else:
            error = why or error
    if then is Next.GO_ON:
        changes["state"] = State.EXPORTING
    elif asked or then not in (Next.REJECT, Next.FAIL):
        changes["state"] = State.INTERRUPTED
    error = error or outcome.facts(Stage.TRAIN, code, live.run, record)
    _close(daemon, live, Ended(code=code, asked=asked, then=then, error=error), changes)
    if reason and then is not Next.GO_ON:
        daemon.say(live, f"{record.job}: attempt {attempt.number} ended", reason=reason)


def _other_ended(daemon: Daemon, live: Live, which: Stage, code: int, *, asked: bool) -> None:
    record = live.record
    path = StageFolder(stage_folder(live.run, which, record)).result
    changes: dict[str, Any] = {}
    error: ErrorFacts | None
    if which is Stage.PREPARE and not live.cancel and (why := _not_its_fault(daemon, live, code)):
        before = record.tries.get(which.value, 1) - 1
        change(daemon, live, state=State.QUEUED, tries={**record.tries, which.value: before})
        _forget_child(live)
        keep_waiting(daemon, live, why)
        return
    if which is Stage.PREPARE:
        prepared, error = read_answer(path, PrepareResult)
        if code == ExitCode.OK and prepared is not None and prepared.total_steps > 0:
            changes = outcome.prepared(record, prepared)
    elif which is Stage.EXPORT:
        exported, error = read_answer(path, ExportResult)
        if code == ExitCode.OK and exported is not None:
            changes = {
                "state": State.EVALUATING,
                "metrics": {**record.metrics, "adapter_files": exported.files},
            }
    else:
        evaluated, error = read_answer(path, EvaluateResult)
        if code == ExitCode.OK and evaluated is not None:
            changes = outcome.evaluated(record, evaluated)
    if code == ExitCode.OK and not changes:
        code = ExitCode.UNEXPECTED  # it said ok and left nothing to go on with
    changes_done = bool(changes)
    if not changes_done:
        # The record tells that no child works on it: a prepare starts over, others go on.
        changes["state"] = State.QUEUED if which is Stage.PREPARE else State.INTERRUPTED
    hung = bool(live.hung) and not asked
    then = after_stage(which, code, tries=record.tries.get(which.value, 1), hung=hung)
    if hung and code != ExitCode.OK:
        error = outcome.hung(which, live.hung, live.run, record)
    if not changes_done and (asked or then is Next.HOLD):  # it does not speak against the run
        tries = record.tries.get(which.value, 1) - 1
        changes["tries"] = {**record.tries, which.value: tries}
    error = error or outcome.facts(which, code, live.run, record)
    if which is Stage.EVALUATE and then is Next.GO_ON and not live.cancel:
        end_run(daemon, live, State.SUCCEEDED, changes=changes)
        _forget_child(live)
        return
    _close(daemon, live, Ended(code=code, asked=asked, then=then, error=error), changes)


def _not_its_fault(daemon: Daemon, live: Live, code: int) -> str | None:
    """Say why a prepare stage that has ended says nothing about the run: it is to begin again.

    A share that went away looks like missing data, and an upload that had stalled for longer than
    files take to settle like bad rows, or, cut between two rows, like good ones.
    """
    if code not in (ExitCode.OK, ExitCode.BAD_INPUT, ExitCode.UNEXPECTED):
        return None
    try:
        with daemon.open_inbox() as inbox:
            looks = daemon.data.looks(inbox, named_files(live.spec))
    except (OSError, RunnerError) as error:
        return None if code == ExitCode.OK else f"the inbox is unavailable ({error})"
    return None if looks == live.data_looks else "its data changed while it was copied"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a stage ended, and what follows from that."""

    code: int
    asked: bool
    """It was asked to stop."""
    then: Next
    error: ErrorFacts


def _close(daemon: Daemon, live: Live, ended: Ended, changes: dict[str, Any]) -> None:
    """Write how a stage ended and what that means for its run, in one step."""
    if live.cancel:
        end_run(
            daemon, live, State.CANCELLED, outcome.cancelled(live.cancel, live.run), changes=changes
        )
    elif not ended.asked and ended.then in (Next.REJECT, Next.FAIL):
        state = State.REJECTED if ended.then is Next.REJECT else State.FAILED
        end_run(daemon, live, state, ended.error, changes=changes)
    else:
        change(daemon, live, **changes)
    _forget_child(live)
    if not ended.asked and ended.then is Next.HOLD and not live.record.state.is_final:
        _hold(daemon, live, ended)


def _hold(daemon: Daemon, live: Live, ended: Ended) -> None:
    at, why = time.monotonic(), ended.error.message
    if ended.code == ExitCode.GPU_LOST:
        daemon.guard.stage_lost_it(why, at)
        why = daemon.guard.standing.problem
    else:
        daemon.hold = (at + daemon.settings.hold_seconds, why)
    keep_waiting(daemon, live, why)


def _forget_child(live: Live) -> None:
    live.child = live.stage = None
    live.pause, live.hung, live.end_said = "", "", False
