"""A stage on a further box, as the daemon sees it: its end is heard of, its stop is said.

It stands where a child of the daemon's own does (`process.Child`). When its box is not seen any
more, its attempt is fenced; it counts as ended when its process cannot run any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from runner.contract.cluster import Now, Order, Seen, Ticket, Why
from runner.daemon.stages.retry import BOX_LEFT, BOX_LOST, HEAD_AWAY
from runner.exit_codes import ExitCode

_BECAUSE = {Why.LEASE: HEAD_AWAY, Why.AGENT: BOX_LOST, Why.NOT_SEEN: BOX_LOST}


class FarChild:
    """One stage on a further box."""

    def __init__(self, ticket: Ticket, *, changed: Callable[[], None]) -> None:
        """Take over a ticket that is placed, by this daemon or an earlier one.

        Args:
            ticket: the attempt's.
            changed: called when there is something to say to its box.
        """
        self.ticket = ticket
        self.order = Order.GO
        self.seen: Seen | None = None
        self.lost = False
        """Its box is not seen any more, or does not take it."""
        self.since = time.monotonic()
        self._changed = changed
        self._over_at: float | None = None
        self._kill_at: float | None = None

    def hear(self, seen: Seen | None) -> None:
        """Take what its box says; what is said of another attempt counts for nothing."""
        if seen is not None and seen.token == self.ticket.token:
            self.seen = seen

    def fence(self, *, over_at: float) -> None:
        """Take it to run until then at the latest, and nothing that it does to count."""
        self.lost, self._over_at = True, over_at
        self._say(Order.STOP)

    @property
    def is_fenced(self) -> bool:
        """Whether it was given up."""
        return self._over_at is not None

    @property
    def pid(self) -> int:
        """On its box; 0: it has not started yet."""
        return self.seen.pid if self.seen else 0

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, or cannot run any more."""
        if self.seen is not None and self.seen.now is Now.ENDED:
            return True
        return self._over_at is not None and time.monotonic() >= self._over_at

    @property
    def is_stopping(self) -> bool:
        """Whether the daemon has asked it to stop."""
        return self._kill_at is not None

    @property
    def ended_because(self) -> str:
        """Why it ended where that was the boxes' affair, not the run's; empty: by itself."""
        if self.is_fenced:
            return BOX_LOST
        if self.seen is None:
            return ""
        if self.seen.why is Why.AGENT and self.seen.exit_code is not None:
            return BOX_LEFT
        return _BECAUSE.get(self.seen.why, "")

    def wait(self, _seconds: float) -> bool:
        """Tell whether it has ended; nobody waits for a further box."""
        return self.has_ended

    def poll(self) -> int | None:
        """Give what its end means, once it is known or can be relied on."""
        if not self.has_ended:
            return None
        if self.is_fenced or self.seen is None or self.seen.exit_code is None:
            return ExitCode.INTERRUPTED
        return self.seen.exit_code

    def ask_to_stop(self, *, at: float, grace_seconds: float) -> None:
        """Ask once; ``enforce`` kills when the grace is over."""
        if self._kill_at is None:
            self._kill_at = at + grace_seconds
            self._say(Order.STOP)

    def ask_for_stack(self) -> None:
        """Do nothing: no signal reaches a further box."""

    def enforce(self, at: float) -> None:
        """Have it killed if it was asked to stop and its time is over."""
        if self._kill_at is not None and at >= self._kill_at:
            self.kill()

    def kill(self) -> None:
        """Have it killed."""
        self._kill_at = self._kill_at or 0.0
        self._say(Order.KILL)

    def _say(self, order: Order) -> None:
        if self.order is not Order.KILL and self.order is not order:
            self.order = order
            self._changed()
