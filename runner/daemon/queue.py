"""The queue: the order in which waiting runs get their turn."""

from __future__ import annotations

from collections.abc import Iterable

from runner.contract.record import RunRecord
from runner.contract.states import State
from runner.daemon.stages.falls import is_suspect


def _turn(record: RunRecord) -> tuple[int, int, int, int]:
    # What was interrupted goes on first: its GPU hours are paid for already. What the machine went
    # down under time and again goes last, whatever its priority: it would take the others along.
    fresh = record.state in (State.QUEUED, State.PREPARING)
    return (int(is_suspect(record.falls)), int(fresh), -record.priority, record.sequence)


def in_order(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Put runs into their order: interrupted ones, then by priority, then first come.

    Last of all those under which the machine went down each time.
    """
    return sorted(records, key=_turn)
