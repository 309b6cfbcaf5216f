"""The agent: takes the head's tickets for this box, and ends its stages when the head is away.

Two threads. One speaks with the share, which may hold it for as long as it likes; the other one
watches over the stages and touches no file. So stages are ended in time when the share is gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from runner.agent.cards import Cards
from runner.agent.lease import Heard, order_for, tickets_to_take
from runner.agent.work import Work, environment_on, start
from runner.contract.cluster import (
    BEATS_A_LEASE,
    WORDS_TOLD,
    BoxSaid,
    ClusterFolder,
    Head,
    Now,
    Order,
    Seen,
    Ticket,
    Why,
    hear,
    in_the_way,
    say,
)
from runner.contract.image_version import image_version
from runner.contract.models import models_on_box
from runner.contract.settings import Settings
from runner.daemon.stages.stand_by import Seat
from runner.daemon.start.end_orphans import end_orphans
from runner.errors import BusyError
from runner.words import visible

POLL_SECONDS = 0.5  # between two looks at what the head says: so long a free card waits for work
TICK_SECONDS = 0.2
REMIND_SECONDS = 60.0  # so often a trouble that lasts is said again
_NO_LEASE_SECONDS = 60.0  # before any head has said how long one is
_ORPHAN_SECONDS = 30.0  # for a stage that an earlier agent has left, as for the daemon's own


class Agent:
    """What both threads share; each attribute has one writer."""

    def __init__(self, settings: Settings, box: str, *, say_event: Callable[..., None]) -> None:
        """Begin without a head.

        Args:
            settings: folders, device and cards of this box.
            box: its name.
            say_event: writes a line for people.

        Raises:
            SettingError: a card that RUNNER_GPUS names is not there.
        """
        self.settings, self.box = settings, box
        self.id = secrets.token_hex(8)
        self.folder = ClusterFolder.of(settings.outputs)
        self.say_event = say_event
        self.cards = Cards(settings)
        self.wakeup = threading.Event()
        self.work: dict[str, Work] = {}
        """By ticket: at work, or ended and not reported yet. The share's thread adds, the other
        one takes away."""
        self.seats: dict[str, Seat] = {}
        """Of the processes that stand by for the cards' next stages; the share's thread's alone."""
        self.reports: list[Seen] = []
        """Still to be written; the newest last."""
        self.stopping = False
        self.failed: BaseException | None = None
        self._head: Head | None = None
        self._moved_at = _clock()
        self._has_moved = False
        self._counter = 0
        self._beat_at = 0.0
        self._has_refreshed = False
        """The cards were asked for after an end that is not reported yet."""
        self._done: set[str] = set()
        """Tickets that this agent has taken, or whose end it has to tell."""
        self._said: dict[str, float] = {}

    @property
    def heard(self) -> Heard:
        """What is known of the head now."""
        return Heard(
            head=self._head,
            unmoved_seconds=_clock() - self._moved_at,
            has_moved=self._has_moved,
        )

    # The thread that watches over the stages.

    def watch(self) -> None:
        """Look once after every stage."""
        at = time.monotonic()
        for name, work in list(self.work.items()):
            code = work.ended()
            if code is not None:
                more = {"pid": work.child.pid, "exit_code": code, "why": work.why}
                self.reports.append(self._told(work.ticket, Now.ENDED, **more))
                self.say_event(f"{_of(work.ticket)} ended", exit_code=code, why=work.why.value)
                del self.work[name]
                continue
            order, why = order_for(name, self.box, self.heard)
            if self.stopping:
                order, why = Order.STOP, Why.AGENT
            before = work.child.is_stopping
            grace = self._head.grace_seconds if self._head else self.settings.grace_seconds
            work.obey(order, why, at=at, grace_seconds=grace)
            if work.child.is_stopping and not before:
                self.say_event(f"{_of(work.ticket)} is asked to stop", why=why.value)

    # The thread that speaks with the share.

    def speak(self) -> None:
        """Go round until the agent ends."""
        try:
            self._require_own_name()
            self._end_orphans()
            while not (self.stopping and not self.work and not self.reports):
                with self._telling_trouble():
                    self._listen()
                    for say_or_take in (self._report, self._beat, self._take):
                        with self._telling_trouble():  # of one file, and the others go on
                            say_or_take()
                self._keep_standing_by()
                self.wakeup.wait(POLL_SECONDS)
                self.wakeup.clear()
            with contextlib.suppress(OSError):
                self.folder.box(self.box).unlink(missing_ok=True)
        except BaseException as error:
            self.failed = error
        finally:
            for seat in self.seats.values():
                seat.end()
            self.wakeup.set()

    def _listen(self) -> None:
        head = hear(self.folder.head, Head)
        if head is None:
            self._tell_trouble(FileNotFoundError(errno.ENOENT, "no head has said anything there"))
            return
        before = self._head
        if before is None or (before.head, before.counter) != (head.head, head.counter):
            self._moved_at = _clock()
            self._has_moved = before is not None
            if before is None or before.head != head.head:
                self.say_event("a head is there", version=head.version)
        self._head = head
        if head.version != image_version():
            self._remind(
                f"this box has version {image_version()} and the head has {visible(head.version)}: "
                "nothing is placed here. Bring both to the same: docker compose build"
            )

    def _beat(self) -> None:
        lease = self._head.lease_seconds if self._head else _NO_LEASE_SECONDS
        at = _clock()
        if self._beat_at and at - self._beat_at < lease / BEATS_A_LEASE:
            return
        other = hear(self.folder.box(self.box), BoxSaid)
        if other is not None and self._counter and other.agent != self.id:
            raise BusyError(
                f"another agent works under the name of this box, {self.box}",
                advice="Give each box a name of its own: RUNNER_BOX in its .env.",
            )
        self._counter += 1
        settings = self.settings
        said = BoxSaid(
            box=self.box,
            agent=self.id,
            version=image_version(),
            counter=self._counter,
            outputs_dir=str(settings.outputs_dir),
            models_dir=str(settings.models_dir),
            models=tuple(models_on_box(settings.models_dir)),
            cards=() if self.stopping else self.cards.now,
        )
        say(self.folder.box(self.box), said)
        self._beat_at = at

    def _report(self) -> None:
        if any(seen.now is Now.ENDED for seen in self.reports) and not self._has_refreshed:
            # The head shall know what is free before it hears of the end.
            self._has_refreshed = True
            self.cards.refresh()
            self._beat_at = 0.0
            self._beat()
        for _ in range(len(self.reports)):
            seen = self.reports.pop(0)
            try:
                say(self.folder.seen_of(seen.ticket), seen)
            except OSError:
                self.reports.append(seen)  # again later, and the others are not kept behind it
                raise
        self._has_refreshed = False

    def _take(self) -> None:
        for name, order in tickets_to_take(self.box, self.heard).items():
            if name not in self._done and not self.stopping:
                with self._telling_trouble():  # of one ticket: it is looked at again
                    self._take_one(name, order)

    def _take_one(self, name: str, order: Order) -> None:
        ticket = hear(self.folder.ticket(name), Ticket)
        if ticket is None or ticket.box != self.box or ticket.name != name:
            return
        before = hear(self.folder.seen_of(name), Seen)
        # What this agent has said of a ticket that is not done was said in vain: it begins again.
        if before is not None and before.token == ticket.token and before.agent != self.id:
            if before.now is not Now.ENDED:  # an earlier agent's, and it is gone by now
                self._end(ticket, Why.AGENT)
        elif order is not Order.GO:
            self._end(ticket, Why.ASKED)
        elif self._head is not None and self._head.version != image_version():
            self._end(ticket, Why.AGENT)  # placed before one of both was brought to a new version
        elif any(one.ticket.card == ticket.card for one in self.work.values()):
            return  # what was at work there is still leaving
        else:
            self._start(ticket)
        self._done.add(name)

    def _start(self, ticket: Ticket) -> None:
        say(self.folder.seen_of(ticket.name), self._told(ticket, Now.TAKEN))
        try:
            seat = self.seats.get(ticket.card, Seat())
            work = start(ticket, self.settings, seat=seat, on_exit=self.wakeup.set)
        except (OSError, ValueError) as error:
            self.say_event(f"{_of(ticket)} cannot be started", reason=str(error), level="warning")
            self._end(ticket, Why.NOT_SEEN, reason=str(error)[:WORDS_TOLD])
            return
        self.work[ticket.name] = work
        self.say_event(f"{_of(ticket)} started", pid=work.child.pid, card=ticket.card or "CPU")
        with self._telling_trouble():  # its end is told in any case
            started = self._told(ticket, Now.STARTED, pid=work.child.pid)
            say(self.folder.seen_of(ticket.name), started)

    def _keep_standing_by(self) -> None:
        """Have a process stand by for each card: a training need not wait for its imports."""
        settings, at = self.settings, time.monotonic()
        for card in self.cards.now:
            is_asked = card.memory is not None if settings.stand_by is None else settings.stand_by
            self.seats.setdefault(card.uuid, Seat()).keep(
                settings.stage_command,
                environment_on(card.uuid, settings, box=self.box),
                at=at,
                is_wanted=is_asked and not card.problem and not self.stopping,
            )

    def _end(self, ticket: Ticket, why: Why, *, reason: str = "") -> None:
        """Have it told, as often as it takes, that nothing runs of a ticket."""
        self.reports.append(self._told(ticket, Now.ENDED, why=why, reason=reason))

    def _told(self, ticket: Ticket, now: Now, **more: object) -> Seen:
        seen = Seen(ticket=ticket.name, token=ticket.token, agent=self.id, now=now)
        return seen.model_copy(update=more)

    def _require_own_name(self) -> None:
        """Refuse a name whose owner is at work.

        Raises:
            BusyError: its counter moves.
        """
        path = self.folder.box(self.box)
        end, seen = None, None
        while not self.stopping:
            try:
                self._listen()
                said = hear(path, BoxSaid)
                if said is None:
                    return
                if seen is not None and said.counter != seen.counter:
                    raise BusyError(
                        f"an agent is at work under the name of this box, {self.box}",
                        advice="Give each box a name of its own: RUNNER_BOX in its .env.",
                    )
                seen = said
                lease = self._head.lease_seconds if self._head else _NO_LEASE_SECONDS
                end = end or _clock() + 2 * lease / BEATS_A_LEASE
                if _clock() >= end:
                    return
            except OSError as error:
                self._tell_trouble(error)
            time.sleep(POLL_SECONDS)

    def _end_orphans(self) -> None:
        """End what an earlier agent of this name has left: not what one that is at work runs."""
        outputs, box = self.settings.outputs_dir, self.box
        for folder in end_orphans(outputs, grace_seconds=_ORPHAN_SECONDS, box=box):
            what = f"{folder}: a stage of an earlier agent was still running"
            self.say_event(what, level="warning")

    @contextlib.contextmanager
    def _telling_trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._tell_trouble(error)

    def _tell_trouble(self, error: OSError) -> None:
        why = error.strerror or str(error)
        if which := in_the_way(error):
            self._remind(f"{which} cannot be used ({why}): remove it")
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self._remind(f"{self.folder.root} cannot be written ({why}): make room on that disk")
            return
        self._remind(
            f"{self.folder.root} cannot be used ({why}). On the box with the queue, set "
            "RUNNER_CLUSTER in .env; here, mount its outputs/ and models/, for the same user"
        )

    def _remind(self, what: str) -> None:
        if _clock() - self._said.get(what, -REMIND_SECONDS) >= REMIND_SECONDS:
            self._said[what] = _clock()
            self.say_event(what, level="warning")


def run_agent(settings: Settings, box: str, *, say_event: Callable[..., None]) -> int:
    """Be a box's agent until asked to leave; its stages are asked for checkpoints first.

    Raises:
        BusyError: another agent has the name.
        SettingError: a card that RUNNER_GPUS names is not there.
    """
    agent = Agent(settings, box, say_event=say_event)

    def leave(*_signal: object) -> None:
        agent.stopping = True
        agent.wakeup.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    os.umask(0o027)  # results are for their owner and the share's group, as the daemon's are
    agent.cards.watch()
    say_event(f"box {box}: the agent is there", version=image_version())
    # Never joined for long: a share that holds it must not keep this process.
    speaker = threading.Thread(target=agent.speak, name="share", daemon=True)
    speaker.start()
    while speaker.is_alive() or agent.work:
        agent.watch()
        if not speaker.is_alive():
            agent.stopping = True
        if agent.stopping and not agent.work:
            speaker.join(timeout=10.0)  # for the last words
            break
        time.sleep(TICK_SECONDS)
    if agent.failed is not None:
        raise agent.failed
    sys.stderr.flush()
    return 0


def _of(ticket: Ticket) -> str:
    return f"{visible(ticket.job)}: attempt {ticket.number} of {ticket.run_id}"


def _clock() -> float:
    """Give the seconds since the machine's start, its sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
