"""A run's record changes here: on disk first, then in the book, then in the log."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta
from typing import Any

from runner.clock import now
from runner.contract.ended import note_ended
from runner.contract.record import ErrorFacts, Waiting, write_record
from runner.contract.states import State
from runner.daemon.book import Live
from runner.daemon.daemon import Daemon
from runner.daemon.inbox.wait_for_data import named_files
from runner.daemon.leftovers import sweep_run
from runner.notices.leave import leave_notice

_NUMBER = re.compile(r"[\d.,]+(?= ?(?:[KMGT]i?B|%)| free| of [\d.,]+ free)")
"""Figures of bytes and shares, as the reasons name them; not numbers in the names of files."""
_NUMBERS_SECONDS = 60.0
"""A reason whose figures alone have changed is written so often at most, and never logged again:
a job that waits for memory would write its record each second."""


def change(daemon: Daemon, live: Live, **changes: Any) -> None:
    """Change a run's record, on disk first."""
    before = live.record.state
    record = live.record.but(**changes)
    if record == live.record:
        return
    write_record(live.run.record, record)
    live.record = record
    live.failures_in_a_row = 0
    daemon.note(record.run_id, None)
    if record.state.is_final:
        if not before.is_final:
            leave_notice(daemon.outputs, record)
        note_ended(daemon.outputs, live.run, record)
        daemon.book.ends.note(
            job=record.job,
            run_id=record.run_id,
            state=record.state,
            sequence=record.sequence,
        )
    daemon.next_look = time.monotonic()
    if record.state != before:
        why = {"reason": record.error.message} if record.error else {}
        daemon.say(live, f"{record.job}: {record.state}", state=record.state.value, **why)


def keep_waiting(
    daemon: Daemon,
    live: Live,
    reason: str,
    *,
    patience_seconds: float | None = None,
    again_at: datetime | None = None,
    advice: str | None = None,
) -> None:
    """Record why a run that could go on does not.

    Args:
        daemon: the daemon.
        live: the run.
        reason: what it waits for.
        patience_seconds: it is rejected after this long; None: it waits on.
        again_at: it is tried again then at the earliest.
        advice: what a person can do about it.
    """
    known = live.record.waiting
    if known is not None and known.advice == advice and _differs_in_numbers(known.reason, reason):
        if time.monotonic() - live.reason_written_at < _NUMBERS_SECONDS:
            return
        live.reason_written_at = time.monotonic()
        change(daemon, live, waiting=known.model_copy(update={"reason": reason}))
    elif known is None or known.reason != reason:
        live.reason_written_at = time.monotonic()
        daemon.say(live, f"{live.record.job}: {reason}")
        since = now()
        until = None if patience_seconds is None else since + timedelta(seconds=patience_seconds)
        waiting = Waiting(reason=reason, since=since, until=until, again_at=again_at, advice=advice)
        change(daemon, live, waiting=waiting)
    elif known.advice != advice:
        change(daemon, live, waiting=known.model_copy(update={"advice": advice}))


def _differs_in_numbers(before: str, after: str) -> bool:
    """Whether two reasons say the same with other figures: free memory changes all the time."""
    return before != after and _NUMBER.sub("", before) == _NUMBER.sub("", after)


def end_run(
    daemon: Daemon,
    live: Live,
    state: State,
    error: ErrorFacts | None = None,
    *,
    changes: dict[str, Any] | None = None,
) -> None:
    """Bring a run to a final state, together with other changes of its record."""
    if state is not State.SUCCEEDED:
        daemon.book.all_succeeded = False
    daemon.data.forget(named_files(live.spec))
    sweep_run(live.run)
    final = {
        "state": state,
        "next_stage": None,
        "ended_at": now(not_before=live.record.started_at or live.record.created_at),
        "waiting": None,
        "error": error,
    }
    change(daemon, live, **{**(changes or {}), **final})
