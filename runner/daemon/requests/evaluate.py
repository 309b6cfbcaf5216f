"""Evaluate again: the evaluate stage of a run that has succeeded, when somebody asks for it.

What was measured before stands until a whole new evaluation takes its place.
"""

from __future__ import annotations

import shutil

from runner.contract.layout import StageFolder
from runner.contract.requests import Request
from runner.contract.stage_io import EvaluateResult
from runner.contract.states import Stage
from runner.daemon.change_run import change
from runner.daemon.daemon import Daemon
from runner.daemon.promotion.at_end import judge_again, promote_waiting
from runner.daemon.requests.again import Again, Asked, carry_out_again
from runner.daemon.show_again import show_again
from runner.daemon.stages import outcome
from runner.daemon.stages.plans import read_answer
from runner.exit_codes import ExitCode

NEW = "evaluation-new"
"""In the run's folder: where the new evaluation is made, until it takes the old one's place."""


def carry_out_evaluate(daemon: Daemon, request: Request) -> bool | None:
    """Begin it, or see whether it is over: True; False: not yet; None: it cannot be done."""
    return carry_out_again(
        daemon,
        Asked(
            request=request.path.name,
            run_id=str(request.args.get("run_id")),
            stage=Stage.EVALUATE,
            folder=NEW,
            doing="is evaluated again",
            changes={},
            conclude=_conclude,
        ),
    )


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
