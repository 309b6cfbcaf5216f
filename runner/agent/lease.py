"""Lease: may a stage on this box run on? Decided from what the head last said, and when."""

from __future__ import annotations

from dataclasses import dataclass

from runner.contract.cluster import Head, Order, Why


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What this box knows of the head."""

    head: Head | None = None
    """None: nothing yet."""
    unmoved_seconds: float = 0.0
    """For so long its counter has not moved, by this box's own clock; its sleep counts as well."""
    has_moved: bool = False
    """It has moved since the agent's start: what lies there is no leftover of a head that died."""


def order_for(ticket: str, box: str, heard: Heard) -> tuple[Order, Why]:
    """Decide what becomes of a stage at work.

    Args:
        ticket: its name.
        box: this box's.
        heard: of the head.
    """
    head = heard.head
    if head is None or heard.unmoved_seconds > head.lease_seconds:
        return Order.STOP, Why.LEASE
    held = head.tickets.get(ticket)
    if held is None or held.box != box:  # it holds no longer: another attempt may be at work
        return Order.STOP, Why.ASKED
    return held.order, Why.ASKED


def tickets_to_take(box: str, heard: Heard) -> dict[str, Order]:
    """Give the tickets that are for this box, and what the head says of each.

    One that is to end before this agent has seen it is not begun with; but the head waits for its
    end, and nobody else tells of that.
    """
    head = heard.head
    if head is None or not heard.has_moved or heard.unmoved_seconds > head.lease_seconds:
        return {}
    return {name: held.order for name, held in sorted(head.tickets.items()) if held.box == box}
