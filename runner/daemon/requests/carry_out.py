"""Requests: what commands left in outputs/.runner/requests/ is carried out and taken away."""

from __future__ import annotations

from runner.contract.requests import read_requests
from runner.daemon.daemon import Daemon
from runner.daemon.requests.cancel import carry_out_cancel


def carry_out_requests(daemon: Daemon) -> None:
    """Carry out what was asked, oldest first."""
    for request in read_requests(daemon.outputs):
        done = None
        if request.verb == "cancel":
            done = carry_out_cancel(daemon, str(request.args.get("run_id")))
        if done is None:
            daemon.log.say("a request cannot be carried out", verb=request.verb, **request.args)
        if done is not False:
            request.done()
