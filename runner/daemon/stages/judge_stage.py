"""Judge a stage other than train: what its result and exit status mean; nothing is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.contract.layout import RunFolder
from runner.contract.record import ErrorFacts, RunRecord
from runner.contract.stage_io import EvaluateResult, ExportResult, HandOverResult, PrepareResult
from runner.contract.states import Stage, State
from runner.daemon.stages import outcome
from runner.daemon.stages.plans import read_answer
from runner.daemon.stages.retry import Next, after_stage
from runner.exit_codes import ExitCode


@dataclass(frozen=True, kw_only=True)
class StageEnd:
    """All that is known of how a stage ended."""

    run: RunFolder
    record: RunRecord
    stage: Stage
    code: int
    """What the child's status means."""
    asked: bool
    """It was asked to stop."""
    hung: str = ""
    """What was seen of its standing still, where that is why it was ended."""
    found: dict[str, Any] | None = None
    """What its result changes in the record; None: it left none to go on with."""
    error: ErrorFacts | None = None
    """What it said itself."""


@dataclass(frozen=True, kw_only=True)
class StageVerdict:
    """What follows from a stage's end."""

    code: int
    then: Next
    error: ErrorFacts
    changes: dict[str, Any]


def judge_stage(end: StageEnd) -> StageVerdict:
    """Decide what a stage's end means."""
    code = end.code
    if code == ExitCode.OK and end.found is None:
        code = ExitCode.UNEXPECTED  # it said ok and left nothing to go on with
    tries = end.record.tries.get(end.stage.value, 1)
    then = after_stage(end.stage, code, tries=tries, hung=bool(end.hung))
    error = end.error
    if end.hung and code != ExitCode.OK:
        error = outcome.hung(end.stage, end.hung, end.run, end.record)
    changes = dict(end.found or {})
    if code != ExitCode.OK:
        # The record tells that no child works on it: a prepare starts over, others go on.
        is_prepare = end.stage is Stage.PREPARE
        changes = {"state": State.QUEUED if is_prepare else State.INTERRUPTED}
        if end.asked or then in (Next.HOLD, Next.REST):  # it does not speak against the run
            changes["tries"] = {**end.record.tries, end.stage.value: tries - 1}
    error = error or outcome.facts(end.stage, code, end.run, end.record)
    return StageVerdict(code=code, then=then, error=error, changes=changes)


def read_end(
    path: Path, which: Stage, record: RunRecord
) -> tuple[dict[str, Any] | None, ErrorFacts | None]:
    """Read what a stage left: what it changes in the record, and what it says went wrong."""
    if which is Stage.PREPARE:
        prepared, error = read_answer(path, PrepareResult)
        whole = prepared is not None and prepared.total_steps > 0
        return outcome.prepared(record, prepared) if prepared and whole else None, error
    if which is Stage.EXPORT:
        exported, error = read_answer(path, ExportResult)
        return outcome.exported(record, exported) if exported else None, error
    if which is Stage.HAND_OVER:
        made, error = read_answer(path, HandOverResult)
        whole = made is not None and made.handed_over is not None
        return outcome.handed_over(record, made) if made and whole else None, error
    evaluated, error = read_answer(path, EvaluateResult)
    return outcome.evaluated(record, evaluated) if evaluated else None, error
