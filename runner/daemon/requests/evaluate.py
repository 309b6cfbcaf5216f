"""Evaluate again: the evaluate stage of a run that has succeeded, alone, when somebody asks for it.

The run stays what it is while that goes on, and where it fails: what was measured before stands
until a whole new evaluation takes its place. The request stays as well, so that a power cut only
begins it anew.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from runner.contract import stage_environment as stage
from runner.contract.layout import StageFolder
from runner.contract.record import ErrorFacts, read_record
from runner.contract.stage_io import EvaluateResult, write_message
from runner.contract.states import Stage, State
from runner.daemon.book import Live
from runner.daemon.change_run import change
from runner.daemon.daemon import Daemon
from runner.daemon.promotion.at_end import judge_again, promote_waiting
from runner.daemon.show_again import show_again
from runner.daemon.stages import outcome
from runner.daemon.stages.plans import make_plan, read_answer
from runner.daemon.stages.process import Child, start_stage
from runner.errors import BusyError, RunnerError
from runner.exit_codes import ExitCode
from runner.files.lock import Lock
from runner.spec.read_spec import read_spec

NEW = "evaluation-new"
"""In the run's folder: where the new evaluation is made, until it takes the old one's place."""


@dataclass(kw_only=True)
class Again:
    """A run that is evaluated again."""

    live: Live
    child: Child
    folder: Path
    is_over: bool = False
    found: tuple[EvaluateResult | None, ErrorFacts | None] | None = None
    """What it left; kept, for writing the record of it may take more than one try."""


def carry_out_evaluate(daemon: Daemon, run_id: str) -> bool | None:
    """Begin it, or see whether it is over: True; False: not yet; None: it cannot be done."""
    again = daemon.again
    if again is not None:
        if again.live.record.run_id != run_id or not again.is_over:
            return False
        daemon.again = None
        return True
    if run_id in daemon.book.runs:
        return True  # the evaluation is still to come, or is being shown
    found = _find(daemon, run_id)
    if found is None:
        return None
    if not _card_is_free(daemon):
        return False
    _begin(daemon, found)
    return False


def _find(daemon: Daemon, run_id: str) -> Live | None:
    """Read a run that has ended; None: there is none that could be evaluated."""
    for job, known in daemon.outputs.run_names():
        if known != run_id:
            continue
        run = daemon.outputs.run(job, run_id)
        try:
            record = read_record(run.record)
            spec = read_spec(run.spec.read_bytes(), file_name=record.file_name)
        except (OSError, RunnerError):
            return None
        there = (run.adapter / "adapter_model.safetensors").is_file()
        if record.state is State.SUCCEEDED and there and record.erased is None:
            return Live(run=run, record=record, spec=spec)
    return None


def _card_is_free(daemon: Daemon) -> bool:
    """Whether nothing else is at work on the card, and nothing speaks against starting there."""
    busy = any(
        live.child is not None and live.stage is not Stage.PREPARE
        for live in daemon.book.runs.values()
    )
    return not (busy or daemon.hold or daemon.guard.standing.problem)


def _begin(daemon: Daemon, live: Live) -> None:
    try:
        lease = Lock.take(
            daemon.outputs.gpu_lease, what="the GPU", holder=f"run {live.record.run_id}"
        )
    except BusyError:
        return  # asked again in the next round
    try:
        folder = live.run.root / NEW
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        settings = daemon.settings
        if daemon.guard.is_well:  # the card, and never the CPU in its place
            settings = replace(settings, device="cuda")
        plan = make_plan(
            Stage.EVALUATE, settings=settings, run=live.run, record=live.record, spec=live.spec
        )
        write_message(StageFolder(folder).plan, plan.model_copy(update={"alone": True}))
        process = start_stage(
            stage.command(settings.stage_command, Stage.EVALUATE, folder.resolve()),
            environment=stage.environment(os.environ, home=settings.stage_home.resolve()),
            log=StageFolder(folder).log(Stage.EVALUATE.value),
            inherited=(lease.descriptor,),
        )
        child = Child(process, folder=folder, on_exit=daemon.wakeup.set)
    finally:
        lease.release()  # the child has inherited it
    live.stage = Stage.EVALUATE
    daemon.again = Again(live=live, child=child, folder=folder)
    daemon.say(live, f"{live.record.job}: is evaluated again, as asked", pid=child.pid)


def follow_again(daemon: Daemon, at: float) -> None:
    """See to a run that is evaluated again: its end is written into the record."""
    again = daemon.again
    if again is None or again.is_over:
        return
    if daemon.stopping:
        again.child.ask_to_stop(at=at, grace_seconds=daemon.settings.grace_seconds)
    if daemon.hurry:
        again.child.kill()
    again.child.enforce(at)
    code = again.child.poll()
    if code is None:
        return
    if again.child.is_stopping:
        daemon.again = None  # the request lies there: the next daemon begins again
        return
    with daemon.isolating(again.live, at):
        _conclude(daemon, again, code)
        again.is_over = True
        daemon.wakeup.set()


def _conclude(daemon: Daemon, again: Again, code: int) -> None:
    live = again.live
    if again.found is None:
        again.found = read_answer(StageFolder(again.folder).result, EvaluateResult)
    result, error = again.found
    if code != ExitCode.OK or result is None:
        why = error.message if error else f"It {outcome.how(code)}."
        where = f"outputs/{live.run.job}/{live.run.run_id}/{NEW}/evaluate.log"
        what = f"It was to be evaluated again, and that failed: {why} {where} says more."
        change(daemon, live, shortfalls=outcome.joined(live.record.shortfalls, (what,)))
        daemon.say(live, f"{live.record.job}: the new evaluation failed", reason=why)
    else:
        if again.folder.exists():
            shutil.rmtree(live.run.evaluation, ignore_errors=True)
            again.folder.rename(live.run.evaluation)
        changes = outcome.evaluated(live.record, result)
        after = live.record.but(**changes)
        promotion = judge_again(daemon.outputs, live.run, after, live.spec)
        change(daemon, live, **changes, promotion=promotion)
        daemon.to_promote.append(live.record)
        promote_waiting(daemon)
        reason = live.record.verdict.reason if live.record.verdict else ""
        daemon.say(live, f"{live.record.job}: evaluated again", verdict=reason)
    show_again(daemon, live.run, live.record)
