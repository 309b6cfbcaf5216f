"""Requests: what commands left in outputs/.runner/requests/ is carried out and taken away."""

from __future__ import annotations

from typing import Any

from runner.contract.requests import Request, read_requests
from runner.daemon.daemon import Daemon
from runner.daemon.requests.cancel import carry_out_cancel
from runner.daemon.requests.erase import carry_out_erase
from runner.daemon.requests.evaluate import carry_out_evaluate
from runner.daemon.requests.export import carry_out_export
from runner.daemon.requests.promote import carry_out_promote, carry_out_rollback
from runner.words import visible


def carry_out_requests(daemon: Daemon) -> None:
    """Carry out what was asked, oldest first; one that cannot be does not hold up the others."""
    exported: list[dict[str, Any]] = []
    for request in read_requests(daemon.outputs):
        if str(request.path) in daemon.given_up:
            continue
        if request.verb == "export" and request.args in exported:
            _take_away(daemon, request)  # asked for twice: an hour's work is not done again
            continue
        if (done := _carry_out(daemon, request)) is None:
            name = visible(request.path.name)
            why = f"its verb is {request.verb!r}" if request.verb else "it is no request"
            daemon.log.say(f"a request cannot be carried out: {name}", level="warning", reason=why)
        if done is not False:
            _take_away(daemon, request)
        if done is True and request.verb == "export":
            exported.append(request.args)


def _carry_out(daemon: Daemon, request: Request) -> bool | None:
    """True: done; False: asked again in the next round; None: it cannot be done."""
    if request.verb == "cancel":
        return carry_out_cancel(daemon, str(request.args.get("run_id")))
    if request.verb == "erase":
        return carry_out_erase(daemon, request)
    if daemon.erasing is not None:
        return False  # nothing begins with files that are just going; it takes seconds
    if request.verb == "evaluate":
        return carry_out_evaluate(daemon, request)
    if request.verb == "export":
        return carry_out_export(daemon, request)
    if request.verb == "promote":
        return carry_out_promote(daemon, request)
    if request.verb == "rollback":
        return carry_out_rollback(daemon, request)
    return None


def _take_away(daemon: Daemon, request: Request) -> None:
    try:
        request.done()
    except OSError as error:  # a folder, or somebody else's file: looked at once and no more
        daemon.given_up.add(str(request.path))
        where = f"outputs/.runner/requests/{visible(request.path.name)}"
        daemon.note(where, f"{where} cannot be removed ({error.strerror}): please delete it")
