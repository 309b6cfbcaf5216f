"""Export: merged weights and GGUF files of a run that has succeeded, when somebody asks for them.

The forms that were there before stay until the new ones stand whole under their names.
"""

from __future__ import annotations

from typing import Any

from runner.contract.hand_over_page import write_hand_over_page
from runner.contract.layout import StageFolder
from runner.contract.record import ErrorFacts
from runner.contract.requests import Request
from runner.contract.stage_io import HandOverResult
from runner.contract.states import Stage
from runner.daemon.change_run import change
from runner.daemon.daemon import Daemon
from runner.daemon.leftovers import sweep_run
from runner.daemon.requests.again import Again, Asked, carry_out_again
from runner.daemon.show_again import show_again
from runner.daemon.stages import outcome
from runner.daemon.stages.plans import read_answer
from runner.exit_codes import ExitCode
from runner.spec.export import GGUF

_FOLDER = "hand-over"


def carry_out_export(daemon: Daemon, request: Request) -> bool | None:
    """Begin it, or see whether it is over: True; False: not yet; None: it cannot be done."""
    return carry_out_again(
        daemon,
        Asked(
            request=request.path.name,
            run_id=str(request.args.get("run_id")),
            stage=Stage.HAND_OVER,
            folder=_FOLDER,
            doing="is exported",
            changes=_wish(request),
            conclude=_conclude,
        ),
    )


def _wish(request: Request) -> dict[str, Any]:
    """Read what is asked for; what is none of the formats is left out."""
    named = request.args.get("gguf")
    formats = tuple(one for one in GGUF if one in named) if isinstance(named, list) else ()
    return {
        "merged": request.args.get("merged") is True,
        "gguf": formats,
        "adapter_gguf": request.args.get("adapter_gguf") is True,
    }


def _conclude(daemon: Daemon, again: Again, code: int) -> None:
    live = again.live
    sweep_run(live.run)  # gigabytes, where it was killed
    if again.found is None:
        again.found = read_answer(StageFolder(again.folder).result, HandOverResult)
    result, error = again.found
    if code == ExitCode.OK and result is not None and result.handed_over is not None:
        changes = outcome.handed_over(live.record, result)
        daemon.say(live, f"{live.record.job}: exported")
    else:
        where = f"outputs/{live.run.job}/{live.run.run_id}/{_FOLDER}/{Stage.HAND_OVER}.log"
        error = error or ErrorFacts(
            kind="failed",
            message=f"The stage {outcome.how(code)}.",
            advice=f"Its log says more: {where}",
        )
        changes = outcome.not_handed_over(live.record, error)
        daemon.say(live, f"{live.record.job}: the export failed", reason=error.message)
    change(daemon, live, **changes)
    with daemon.noting(f"HANDOVER.md of {live.run.job}", "HANDOVER.md"):
        write_hand_over_page(daemon.outputs, live.run.job)
    show_again(daemon, live.run, live.record)
