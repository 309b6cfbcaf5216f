"""Cancel: a run ends now, or as soon as its child has left."""

from __future__ import annotations

import time

from runner.contract.states import State
from runner.daemon.book import Live
from runner.daemon.change_run import end_run
from runner.daemon.daemon import Daemon
from runner.daemon.stages import outcome
from runner.daemon.stages.await_answers import awaiting_answers


def cancel(daemon: Daemon, live: Live, reason: str) -> None:
    """Cancel a run: now, or as soon as its child has left."""
    if live.cancel or live.record.state.is_final:
        return
    live.cancel = reason
    live.rests_until = 0.0  # whatever it rests for: it need not be read any more
    daemon.say(live, f"{live.record.job}: to be cancelled", reason=reason)
    if live.child is not None:
        live.child.ask_to_stop(at=time.monotonic(), grace_seconds=daemon.settings.grace_seconds)
    elif not live.left_open:  # else once its attempt is closed
        with awaiting_answers(daemon, live):  # else `reap` ends it
            why = outcome.cancelled(reason, live.run, daemon.hashes.of)
            end_run(daemon, live, State.CANCELLED, why)


def carry_out_cancel(daemon: Daemon, run_id: str) -> bool | None:
    """Carry a command's request out: True once the run is cancelled; None: there is no such run.

    False: its child is leaving. The request stays, so that it is asked again should the power go.
    """
    live = daemon.book.runs.get(run_id)
    if live is None:
        return None
    cancel(daemon, live, "a command asked for it")
    return live.record.state.is_final
