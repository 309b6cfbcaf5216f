"""Runs that train on further boxes: taken up at the start, fenced when their box is away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from runner.clock import now
from runner.contract.cluster import Ticket, in_the_way
from runner.contract.record import RunRecord
from runner.contract.states import Stage
from runner.daemon.book import Live
from runner.daemon.change_run import change, keep_waiting
from runner.daemon.cluster.far_child import FarChild
from runner.daemon.daemon import Daemon
from runner.daemon.stages.retry import spares_host_memory
from runner.words import visible


def is_far(record: RunRecord) -> bool:
    """Whether the newest attempt is open, and on a further box."""
    newest = record.attempts[-1] if record.attempts else None
    return newest is not None and newest.outcome is None and bool(newest.box)


def ticket_of(record: RunRecord) -> Ticket:
    """Give the ticket of the newest attempt: all that stands in it is in the record."""
    attempt = record.attempts[-1]
    return Ticket(
        box=attempt.box,
        card=attempt.cards[0].uuid if attempt.cards else "",
        job=record.job,
        run_id=record.run_id,
        number=attempt.number,
        token=attempt.token,
        spare_host_memory=spares_host_memory(record.attempts[:-1]),
    )


def take_up_far(daemon: Daemon, live: Live) -> None:
    """Follow an attempt that an earlier daemon has placed; what was not handed over yet is."""
    assert daemon.cluster is not None
    child = daemon.cluster.attach(ticket_of(live.record))
    live.child, live.stage = child, Stage.TRAIN
    if live.record.attempts[-1].fenced:
        child.fence(over_at=time.monotonic() + daemon.cluster.fence_seconds)


def follow_cluster(daemon: Daemon, at: float) -> None:
    """Hear the boxes, give up those that are away, and say that this one is there."""
    cluster = daemon.cluster
    if cluster is None:
        return
    # Whatever cannot be heard: boxes end their stages where this one does not say that it is there.
    with _naming_what_is_in_the_way(daemon, "the further boxes cannot be heard"):
        cluster.look(at)
    for live in daemon.book.runs.values():
        child = live.child
        if isinstance(child, FarChild) and child.lost and not child.is_fenced:
            with daemon.isolating(live, at):
                _fence(daemon, live, child, at)
    with _naming_what_is_in_the_way(daemon, "nothing can be said to the further boxes"):
        cluster.beat(at)


@contextmanager
def _naming_what_is_in_the_way(daemon: Daemon, what: str) -> Iterator[None]:
    """Note the trouble: one file that a person must remove, or the whole share's."""
    with daemon.noting_trouble(what):
        try:
            yield
        except OSError as error:
            if not (path := in_the_way(error)):
                raise
            shown = Path(path)
            if shown.is_relative_to(daemon.outputs.root):
                shown = "outputs" / shown.relative_to(daemon.outputs.root)
            daemon.troubles.add(f"{what}: {visible(shown)} is in the way, remove it")


def _fence(daemon: Daemon, live: Live, child: FarChild, at: float) -> None:
    """Give an attempt up: in the record first, then to its box."""
    if child.has_ended:
        return  # it said so before it went
    assert daemon.cluster is not None
    seconds = daemon.cluster.fence_seconds
    *earlier, newest = live.record.attempts
    fenced = newest.model_copy(update={"fenced": True})
    change(daemon, live, attempts=(*earlier, fenced))
    child.fence(over_at=at + seconds)
    why = f"box {child.ticket.box} is not seen any more: the run goes on from what it had sealed"
    keep_waiting(daemon, live, why, again_at=now() + timedelta(seconds=seconds))
