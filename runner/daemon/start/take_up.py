"""Take up runs under way, with the specs that were claimed for them."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass

from runner.clock import now
from runner.contract.layout import RunFolder
from runner.contract.record import ErrorFacts, RunRecord, write_record
from runner.contract.salvage import DAMAGED, what_is_whole
from runner.contract.states import State
from runner.daemon.book import Live
from runner.daemon.cluster.far_runs import is_far, take_up_far
from runner.daemon.daemon import Daemon
from runner.daemon.hashes import StillHashing
from runner.daemon.inbox import view
from runner.daemon.inbox.view import SPEC_BYTES
from runner.daemon.stages.falls import rests_until
from runner.daemon.start.close_attempts import is_open
from runner.errors import RunnerError
from runner.files.beneath import Folder
from runner.files.durable import write_bytes
from runner.files.plain import read_plain
from runner.files.unreadable import says_what_lies_there
from runner.spec.read_spec import read_spec
from runner.words import visible


@dataclass(frozen=True, kw_only=True)
class Specless:
    """A run without a spec to go on with: ``spec.yaml`` is not what was claimed."""

    run: RunFolder
    record: RunRecord
    reason: str = ""
    """Why the claimed file would not help either; it is then not looked for."""
    unread: OSError | None = None
    """Why ``spec.yaml`` cannot be read now: nobody knows yet what it is."""


def take_up(daemon: Daemon, run: RunFolder, record: RunRecord) -> Specless | None:
    """Go on with a run; Specless when its own copy of the spec is not what was claimed."""
    try:
        content = read_plain(run.spec, limit_bytes=SPEC_BYTES)
    except OSError as error:
        unread = None if says_what_lies_there(error) else error
        return Specless(run=run, record=record, unread=unread)
    if hashlib.sha256(content).hexdigest() != record.spec_sha256:
        return Specless(run=run, record=record)
    try:
        spec = read_spec(content, file_name=record.file_name)
    except RunnerError as error:  # of an older runner, which allowed something else
        reason = f"its spec is not understood any more ({error.message})"
        return Specless(run=run, record=record, reason=reason)
    far = daemon.cluster is not None and is_far(record)
    live = Live(
        run=run,
        record=record,
        asked=spec,
        rests_after_fall_until=rests_until(record.falls),
        left_open=is_open(record) and not far,
    )
    if far:
        take_up_far(daemon, live)
    daemon.book.runs[run.run_id] = live
    return None


def show_damaged(daemon: Daemon, inbox: Folder) -> None:
    """Bring the specs of runs that turned out to be damaged to failed/, wherever they lay."""
    if not daemon.book.damaged_now:
        return
    where = view.scan_view(inbox)
    for record in daemon.book.damaged_now:
        run = daemon.outputs.run(record.job, record.run_id)
        if record.run_id in where:
            with daemon.noting(f"answer {record.run_id}", f"{_of(record)}: its answer"):
                view.conclude(
                    inbox,
                    record,
                    run,
                    where[record.run_id],
                    says=daemon.says,
                )
    daemon.book.damaged_now = []


def mend_specs(daemon: Daemon, inbox: Folder, found: list[Specless]) -> None:
    """Make copies of specs anew from the claimed files in the inbox, and take their runs up."""
    for one in list(found):
        with (
            contextlib.suppress(StillHashing),
            daemon.noting(f"spec {one.run.run_id}", f"{_of(one.record)}: its spec"),
        ):
            if _mend_spec(daemon, inbox, one):
                found.remove(one)


def _of(record: RunRecord) -> str:
    return f"{visible(record.job)} ({record.run_id})"


def _mend_spec(daemon: Daemon, inbox: Folder, found: Specless) -> bool:
    """Take the run up, or end it; False: where its spec may lie could not be looked into."""
    run = found.run
    if found.unread is not None:
        again = take_up(daemon, run, found.record)
        if again is None:
            return True
        if again.unread is not None:
            raise again.unread
        found = again
    if found.reason:
        _damaged(daemon, run, found.record, found.reason)
        return True
    places = view.scan(inbox)
    place = places.where.get(run.run_id)
    if place is None:
        if places.unseen:
            return False
        reason = "its spec.yaml is torn and the claimed file is gone"
        _damaged(daemon, run, found.record, reason)
        return True
    with inbox.open_folder(place[0]) as folder:
        content = folder.read_file(place[1], limit_bytes=SPEC_BYTES)
    if hashlib.sha256(content).hexdigest() != found.record.spec_sha256:
        reason = f"its spec.yaml is torn and {place[0]}/ holds another text"
        _damaged(daemon, run, found.record, reason)
        return True
    write_bytes(run.spec, content)
    daemon.log.say(
        "the copy of a spec was torn and was made again", run=run.run_id, level="warning"
    )
    again = take_up(daemon, run, found.record)
    if again is not None and again.reason:  # it is whole again, and not understood
        _damaged(daemon, run, found.record, again.reason)
    return again is None or bool(again.reason)


def _damaged(daemon: Daemon, run: RunFolder, record: RunRecord, reason: str) -> None:
    """End a run that nobody knows any more what was wanted of.

    Raises:
        StillHashing: what is whole of it is not known yet.
    """
    message = f"It cannot go on: {reason}. {what_is_whole(run, daemon.hashes.of)}"
    error = ErrorFacts(kind=DAMAGED, message=message, advice="Drop its spec to run it again.")
    ended_at = now(not_before=record.started_at or record.created_at)
    ended = record.but(
        state=State.FAILED,
        next_stage=None,
        ended_at=ended_at,
        waiting=None,
        error=error,
    )
    write_record(run.record, ended)
    daemon.book.all_succeeded = False
    daemon.book.ended.append(ended)
    daemon.book.damaged_now.append(ended)
    daemon.book.damaged.append(f"{run.job} ({run.run_id}): {message}")
    daemon.log.say(f"{visible(run.job)} ({run.run_id}): {message}", run=run.run_id, level="warning")
