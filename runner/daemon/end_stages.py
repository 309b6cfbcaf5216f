"""Turns the ends of children into what their runs' records say and into what comes next."""

from __future__ import annotations

import time
from typing import Any

from runner.contract.batch import describe_change, smaller
from runner.contract.checkpoints import newest_verified
from runner.contract.crash_points import reached
from runner.contract.exit_codes import ExitCode
from runner.contract.layout import StageFolder
from runner.contract.record import ErrorFacts, now
from runner.contract.stage_io import EvaluateResult, ExportResult, PrepareResult, TrainResult
from runner.contract.states import Stage, State
from runner.daemon import outcome
from runner.daemon.book import Book, Live
from runner.daemon.look_ahead import learn
from runner.daemon.plans import read_answer, stage_folder
from runner.daemon.recover import step_of
from runner.daemon.retry import ASKED, Next, after_attempt, after_stage, rule_for


def reap(book: Book, at: float) -> None:
    """Take up every child that has ended; hurry those that were asked to."""
    for live in list(book.runs.values()):
        if live.child is None:
            continue
        if book.stopping:
            live.child.ask_to_stop(at=at, grace_seconds=book.settings.grace_seconds)
        live.child.enforce(at)
        code = live.child.poll()
        if code is not None:
            reached("stage ended", str(live.stage))
            asked = live.child.is_stopping
            which = live.stage
            live.child = live.stage = None
            assert which is not None
            book.say(live, f"{live.record.job}: {which} ended", exit_code=code)
            if which is Stage.TRAIN:
                attempt_ended(book, live, code, asked=asked)
            else:
                _stage_ended(book, live, which, code, asked=asked)


def attempt_ended(book: Book, live: Live, code: int, *, asked: bool) -> None:
    """Close the newest attempt by its exit status and by what it left."""
    record = live.record
    attempt = record.attempts[-1]
    folder = StageFolder(stage_folder(live.run, Stage.TRAIN, record))
    result, error = read_answer(folder.result, TrainResult)
    if code == ExitCode.OK and (result is None or result.best_checkpoint is None):
        code, result = ExitCode.UNEXPECTED, None
    durable = (
        result.last_step
        if code == ExitCode.OK and result is not None
        else step_of(newest_verified(live.run.root))
    )
    plan = result.batch_plan if result is not None else attempt.batch_plan
    next_plan = None
    if code == ExitCode.OUT_OF_GPU_MEMORY:
        next_plan = smaller(plan) if result is None else result.next_batch_plan
    reason = error.message if error else outcome.how(code)
    if asked and code != ExitCode.OK:
        reason = ASKED
    elif next_plan is not None and next_plan != plan:
        reason = describe_change(plan, next_plan)
    closed = attempt.model_copy(
        update={
            "ended_at": now(),
            "outcome": "interrupted" if reason == ASKED else rule_for(code).outcome,
            "exit_code": code,
            "last_step": durable,
            "peak_gpu_memory_bytes": result.peak_gpu_memory_bytes if result else None,
            "reason": None if code == ExitCode.OK else reason,
        }
    )
    changes: dict[str, Any] = {
        "attempts": (*record.attempts[:-1], closed),
        "batch_plan": next_plan or plan,
    }
    if result is not None:
        if code == ExitCode.OK and result.peak_gpu_memory_bytes is not None:
            peak = result.peak_gpu_memory_bytes
            changes["forecast"] = {**record.forecast, "measured_gpu_memory_bytes": peak}
            gpu = book.gpu.look(time.monotonic())
            learn(book.settings, live.run, record, live.spec, result, gpu=gpu)
        changes |= {
            "environment": {**record.environment, **result.environment},
            "shortfalls": outcome.joined(record.shortfalls, result.shortfalls),
            "metrics": {
                **record.metrics,
                **result.metrics,
                "best_checkpoint": result.best_checkpoint,
                "best_eval_loss": result.best_eval_loss,
            },
        }
    then = after_attempt(code, attempts=changes["attempts"], smaller_exists=next_plan is not None)
    if then is Next.GO_ON:
        changes["state"] = State.EXPORTING
    elif asked or then in (Next.SAME_PLAN, Next.SMALLER_PLAN, Next.HOLD):
        changes["state"] = State.INTERRUPTED
    book.set(live, **changes)
    if reason and then is not Next.GO_ON:
        book.say(live, f"{record.job}: attempt {attempt.number} ended", reason=reason)
    _go_on(
        book, live, then, error or outcome.facts(Stage.TRAIN, code, live.run, record), asked=asked
    )


def _stage_ended(book: Book, live: Live, which: Stage, code: int, *, asked: bool) -> None:
    record = live.record
    path = StageFolder(stage_folder(live.run, which, record)).result
    changes: dict[str, Any] = {}
    error: ErrorFacts | None
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
            changes = {
                "shortfalls": outcome.joined(record.shortfalls, evaluated.shortfalls),
                "metrics": {
                    **record.metrics,
                    "eval_loss_before": evaluated.eval_loss_before,
                    "eval_loss_after": evaluated.eval_loss_after,
                    "eval_tokens": evaluated.eval_tokens,
                },
            }
    if code == ExitCode.OK and not changes:
        code = ExitCode.UNEXPECTED  # it said ok and left nothing to go on with
    changes_done = bool(changes)
    if not changes_done:
        # The record tells that no child works on it: a prepare starts over, others go on.
        changes["state"] = State.QUEUED if which is Stage.PREPARE else State.INTERRUPTED
    then = after_stage(which, code, tries=record.tries.get(which.value, 1))
    if not changes_done and (asked or then is Next.HOLD):  # it does not speak against the run
        tries = record.tries.get(which.value, 1) - 1
        changes["tries"] = {**record.tries, which.value: tries}
    book.set(live, **changes)
    if which is Stage.EVALUATE and then is Next.GO_ON and not live.cancel:
        book.end(live, State.SUCCEEDED)
        return
    _go_on(book, live, then, error or outcome.facts(which, code, live.run, record), asked=asked)


def _go_on(book: Book, live: Live, then: Next, error: ErrorFacts, *, asked: bool) -> None:
    if live.cancel:
        book.end(live, State.CANCELLED, outcome.cancelled(live.cancel))
    elif asked:
        return  # the daemon leaves; the record says interrupted, or ready for the next stage
    elif then is Next.REJECT:
        book.end(live, State.REJECTED, error)
    elif then is Next.FAIL:
        book.end(live, State.FAILED, error)
    elif then is Next.HOLD:
        book.hold = (time.monotonic() + book.settings.hold_seconds, error.message)
        book.wait(live, error.message)
