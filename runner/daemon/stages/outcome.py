"""Outcome: the words and fields of the record after a stage has ended."""

from __future__ import annotations

import signal
from typing import Any

from runner.contract.checkpoints import Sha256, newest_verified, step_of
from runner.contract.findings import in_short
from runner.contract.layout import RunFolder
from runner.contract.record import ErrorFacts, RunRecord
from runner.contract.stage_io import EvaluateResult, ExportResult, HandOverResult, PrepareResult
from runner.contract.start_choice import sentence as start_sentence
from runner.contract.states import Stage, State
from runner.contract.verdict import Figures, judge, not_measured
from runner.daemon.stages.plans import stage_folder
from runner.daemon.stages.retry import rule_for
from runner.errors import HOST_MEMORY_ADVICE, UnreadableError
from runner.exit_codes import ExitCode


def prepared(record: RunRecord, result: PrepareResult) -> dict[str, Any]:
    """Turn what prepare found into changes of the record."""
    numbers = result.model_dump(
        include={
            "train_rows",
            "eval_rows",
            "left_out_rows",
            "train_tokens",
            "learned_tokens",
            "longest",
            "max_length",
            "chat_template",
        }
    )
    return {
        **_start(record, result),
        "state": State.QUEUED,
        "next_stage": Stage.TRAIN,
        "falls": None,
        "data": result.data,
        "data_change": result.data_change,
        "replay": result.replay,
        "model": result.model,
        "total_steps": result.total_steps,
        # An older runner wrote its own default at the claim; the steps were counted with this one.
        "effective_batch_size": result.effective_batch_size or record.effective_batch_size,
        "shortfalls": joined(_before_start(record), result.shortfalls),
        "findings": in_short(result.findings),
        "metrics": {**record.metrics, **numbers},
    }


def _start(record: RunRecord, result: PrepareResult) -> dict[str, Any]:
    """Say where the run starts, where that was the box's to choose: now or at an earlier try."""
    start = result.start
    if start is None and record.start is None:
        return {}
    return {"start": start, "started_from": start.run_id if start and start.goes_on else None}


def _before_start(record: RunRecord) -> tuple[str, ...]:
    """Give the shortfalls without what an earlier try of prepare said of the start."""
    if record.start is None:
        return record.shortfalls
    said = [start_sentence(record.start)]
    said += [record.replay.sentence()] if record.replay else []
    return tuple(one for one in record.shortfalls if one not in said)


def exported(record: RunRecord, result: ExportResult) -> dict[str, Any]:
    """Turn what export left into changes of the record."""
    return {
        "state": State.EVALUATING,
        "next_stage": Stage.EVALUATE,
        "falls": None,
        "metrics": {**record.metrics, "adapter_files": result.files},
    }


def evaluated(record: RunRecord, result: EvaluateResult) -> dict[str, Any]:
    """Turn what evaluate measured into changes of the record, the verdict among them."""
    figures = Figures(
        loss_before=result.eval_loss_before,
        loss_after=result.eval_loss_after,
        uniform_loss=result.uniform_loss,
        held_out_rows=result.eval_rows,
        change_low=result.change_low,
        change_high=result.change_high,
    )
    return {
        "verdict": judge(
            figures,
            adapter_is_zero=result.adapter_is_zero,
            rows_changed=result.rows_changed,
            evaluation=result.evaluation,
        ),
        "evaluation": result.evaluation,
        "shortfalls": joined(record.shortfalls, result.shortfalls),
        "metrics": {
            **record.metrics,
            "eval_loss_before": result.eval_loss_before,
            "eval_loss_after": result.eval_loss_after,
            "eval_tokens": result.eval_tokens,
        },
    }


ADAPTER_DIFFERS = "adapter_differs"
"""Kind of the error by which evaluate says that the adapter itself is not what was trained."""


def not_evaluated(record: RunRecord, error: ErrorFacts) -> dict[str, Any]:
    """Say in the record that the evaluation failed, and that the adapter stands."""
    what = f"The evaluation failed: {error.message} The adapter is not touched by that."
    return {
        "verdict": not_measured(),
        "shortfalls": joined(record.shortfalls, (f"{what} {error.advice or ''}".strip(),)),
    }


def handed_over(record: RunRecord, result: HandOverResult) -> dict[str, Any]:
    """Turn what was made for serving the run into changes of the record."""
    made = result.handed_over
    said = (*(made.sentences if made is not None else ()), *result.shortfalls)
    return {
        "handed_over": made,
        "shortfalls": joined(_before_export(record, keeps=said), said),
    }


EXPORT_FAILED = "The export failed: "
"""How the shortfall of a failed export begins; the next one that succeeds takes it away."""


def not_handed_over(record: RunRecord, error: ErrorFacts) -> dict[str, Any]:
    """Say in the record that nothing was made, and that the adapter stands."""
    again = f"`runner export {record.run_id}` tries it again."
    what = f"{EXPORT_FAILED}{error.message} The adapter is not touched by that."
    said = " ".join(filter(None, (what, error.advice, again)))
    last = record.handed_over.sentences if record.handed_over is not None else ()
    return {"shortfalls": joined(_before_export(record, keeps=last), (said,))}


def _before_export(record: RunRecord, *, keeps: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Give the shortfalls without those of the last export, but for ``keeps``."""
    last = record.handed_over.sentences if record.handed_over is not None else ()
    gone = set(last) - set(keeps)
    return tuple(
        one for one in record.shortfalls if one not in gone and not one.startswith(EXPORT_FAILED)
    )


def joined(before: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """Add sentences that are not there yet."""
    return tuple(dict.fromkeys((*before, *more)))


KILLED_WHO = (
    "ended by SIGKILL while another stage was, too; the kernel killed fewer processes because the "
    "machine's own memory ran out, and does not tell which"
)
"""Reason of an end of which is not known whether it was the kernel's doing."""


def how(code: int) -> str:
    """Say how a child ended."""
    if code == ExitCode.OUT_OF_HOST_MEMORY:
        return "ended by the kernel because the machine's own memory ran out"
    if code < 0:
        try:
            return f"ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"ended by signal {-code}"
    return f"ended with exit code {code} ({rule_for(code).outcome})"


def facts(which: Stage, code: int, run: RunFolder, record: RunRecord) -> ErrorFacts:
    """Say why a stage failed, where it could not say so itself."""
    folder = stage_folder(run, which, record).relative_to(run.root)
    where = f"outputs/{record.job}/{record.run_id}/{folder}/{which}.log"
    by_others = code < 0 or code == ExitCode.OUT_OF_HOST_MEMORY
    return ErrorFacts(
        kind=rule_for(code).outcome.replace(" ", "_"),
        message=f"The {which} stage {'was ' if by_others else ''}{how(code)}.",
        advice=HOST_MEMORY_ADVICE
        if code == ExitCode.OUT_OF_HOST_MEMORY
        else f"Its log says more: {where}",
    )


def hung(which: Stage, seen: str, run: RunFolder, record: RunRecord) -> ErrorFacts:
    """Say that a stage stood still."""
    folder = stage_folder(run, which, record).relative_to(run.root)
    return ErrorFacts(
        kind="hung",
        message=f"The {which} stage hung, for the second time: {seen}.",
        advice="Where it stood, thread by thread, is in its log: "
        f"outputs/{record.job}/{record.run_id}/{folder}/{which}.log. If the card's driver hangs, "
        "run `runner doctor`.",
    )


def cancelled(reason: str, run: RunFolder, sha256: Sha256) -> ErrorFacts:
    """Say why a run was cancelled, and where what it had trained is kept."""
    try:
        kept = newest_verified(run.checkpoints, sha256)
    except UnreadableError as error:
        return ErrorFacts(
            kind="cancelled",
            message=f"Cancelled: {reason}. What it had trained is kept, and could not be checked "
            f"({error.strerror}): outputs/{run.job}/{run.run_id}/checkpoints/",
        )
    if kept is None:
        return ErrorFacts(
            kind="cancelled", message=f"Cancelled: {reason}. Nothing was trained yet."
        )
    return ErrorFacts(
        kind="cancelled",
        message=f"Cancelled: {reason}. The adapter of its step {step_of(kept)} is kept: "
        f"outputs/{run.job}/{run.run_id}/checkpoints/{kept}/",
    )
