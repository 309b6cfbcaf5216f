"""The queue: the order in which waiting runs get their turn."""

from __future__ import annotations

from collections.abc import Iterable

from runner.contract.record import RunRecord
from runner.contract.states import State


def _turn(record: RunRecord) -> tuple[int, int, int]:
    # What was interrupted goes on first: its GPU hours are paid for already.
    fresh = record.state in (State.QUEUED, State.PREPARING)
    return (int(fresh), -record.priority, record.sequence)


def in_order(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Put runs into their order: interrupted ones, then by priority, then first come."""
    return sorted(records, key=_turn)
