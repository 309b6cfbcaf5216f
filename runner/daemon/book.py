"""Turns what happens to runs into their records: what the daemon knows, and the one who writes it.

All that matters is on disk as well. A change is written to the record first, then remembered here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from runner.card.memory import GpuWatch
from runner.clock import now
from runner.contract.layout import RunFolder, new_run_id
from runner.contract.record import ErrorFacts, RunRecord, Waiting, write_record
from runner.contract.settings import Settings
from runner.contract.states import Stage, State
from runner.daemon.gpu_guard import GpuGuard
from runner.daemon.inbox import claim
from runner.daemon.inbox.data_ready import DataWatch, named_files
from runner.daemon.inbox.gate import InboxGate
from runner.daemon.leftovers import sweep_run
from runner.daemon.log import Log
from runner.daemon.stages import outcome
from runner.daemon.stages.process import Child
from runner.daemon.wakeup import Wakeup
from runner.files.beneath import Folder
from runner.files.settle import Look
from runner.spec.spec import JobSpec
from runner.words import visible, visible_lines

ENDED_SHOWN = 10  # runs in STATUS.txt that have ended


@dataclass(frozen=True, kw_only=True)
class Stillness:
    """How long a child has stood still, as far as the daemon was awake to see it."""

    shown: tuple[int, int]
    """What it last showed: its process id and the time of its metrics."""
    seconds: float
    looked_at: float
    """Monotonic."""


@dataclass(kw_only=True)
class Live:
    """A run that something may still happen to."""

    run: RunFolder
    record: RunRecord
    spec: JobSpec
    child: Child | None = None
    stage: Stage | None = None
    """The stage that the child runs."""
    cancel: str = ""
    """Why it is to be cancelled, as soon as its child has ended."""
    pause: str = ""
    """Why its child was asked to leave a checkpoint: the box's trouble, not the run's."""
    hung: str = ""
    """What was seen of its child's standing still; empty while it moves."""
    asked_for_stack_at: float = 0.0
    """Monotonic time at which a child that hangs was asked where."""
    stillness: Stillness | None = None
    """For how long its child has shown nothing new."""
    kernel_kills: int | None = None
    """How many processes the kernel had killed for want of memory when its child began."""
    end_said: bool = False
    """Its child's end was logged; writing the record of it may take more than one try."""
    absent_since: float | None = None
    """Monotonic time of the first scan in a row that did not find the spec."""
    data_looks: tuple[Look | None, ...] = ()
    """How its data files looked when its prepare stage began."""
    answered: tuple[str, str] = ("", "")
    """State folder and text of the newest answer."""


class Book:
    """Every run that is not over, and what its neighbours must know of the box."""

    def __init__(self, settings: Settings) -> None:
        """Begin with nothing; the conductor fills in what lies on disk."""
        self.settings = settings
        self.outputs = settings.outputs
        self.log = Log(self.outputs.daemon_log)
        self.wakeup = Wakeup()
        self.runs: dict[str, Live] = {}
        self.ended: list[RunRecord] = []
        """The latest, for STATUS.txt."""
        self.to_heal: list[RunRecord] = []
        """Runs that ended when nobody showed it in the inbox."""
        self.damaged: list[str] = []
        """What a person must know about runs that nothing can be done with."""
        self.damaged_now: list[RunRecord] = []
        """Runs that ended by that; the inbox does not show it yet."""
        self.known_ids: set[str] = set()
        self.sequence = 0
        self.inbox = InboxGate(settings)
        self.data = DataWatch(settle_seconds=settings.settle_seconds)
        self.gpu = GpuWatch(settings.device)
        self.guard = GpuGuard(
            device=settings.device, patience_seconds=settings.gpu_lost_seconds, say=self.log.say
        )
        self.all_succeeded = True
        self.stopping = False
        self.hurry = False
        """Asked to stop a second time: nobody is waited for any more."""
        self.hold: tuple[float, str] | None = None
        """Until when (monotonic) nothing starts, and why."""
        self.inbox_problem = ""
        """Why the inbox cannot be used; empty when it can."""
        self.next_look = 0.0
        """Monotonic time at which the inbox must be looked at; 0: whenever."""
        self.room_made_at = 0.0
        """Monotonic time of the last search for checkpoints that may go."""
        self.troubles: set[str] = set()
        """What could not be written in this round of the loop, and why."""

    def open_inbox(self) -> Folder:
        """Open the inbox.

        Raises:
            RunnerError, OSError: it is not there; nothing may be concluded from what is.
        """
        return self.inbox.open(self.runs)  # one that ended stays there until that is shown

    def say(self, live: Live, event: str, *, level: str = "info", **facts: Any) -> None:
        """Log an event of a run."""
        self.log.say(event, level=level, run_log=live.run.log, run=live.record.run_id, **facts)

    def set(self, live: Live, **changes: Any) -> None:
        """Change a run's record, on disk first."""
        before = live.record.state
        record = live.record.but(**changes)
        if record == live.record:
            return
        write_record(live.run.record, record)
        live.record = record
        self.next_look = time.monotonic()
        if record.state != before:
            why = {"reason": record.error.message} if record.error else {}
            self.say(live, f"{record.job}: {record.state}", state=record.state.value, **why)

    def wait(self, live: Live, reason: str) -> None:
        """Record why a run that could go on does not."""
        if live.record.waiting is None or live.record.waiting.reason != reason:
            self.say(live, f"{live.record.job}: {reason}")
            self.set(live, waiting=Waiting(reason=reason, since=now()))

    def end(
        self,
        live: Live,
        state: State,
        error: ErrorFacts | None = None,
        *,
        changes: dict[str, Any] | None = None,
    ) -> None:
        """Bring a run to a final state, together with other changes of its record."""
        if state is not State.SUCCEEDED:
            self.all_succeeded = False
        self.data.forget(named_files(live.spec))
        sweep_run(live.run)
        final = {"state": state, "ended_at": now(), "waiting": None, "error": error}
        self.set(live, **{**(changes or {}), **final})

    def cancel(self, live: Live, reason: str) -> None:
        """Cancel a run: now, or as soon as its child has left."""
        if live.cancel or live.record.state.is_final:
            return
        live.cancel = reason
        self.say(live, f"{live.record.job}: to be cancelled", reason=reason)
        if live.child is not None:
            live.child.ask_to_stop(at=time.monotonic(), grace_seconds=self.settings.grace_seconds)
        else:
            self.end(live, State.CANCELLED, outcome.cancelled(reason, live.run))

    @contextmanager
    def noting_trouble(self, what: str = "the outputs folder cannot be written") -> Iterator[None]:
        """Go on where something cannot be written: the next round tries again.

        Nothing is lost by it: a change is remembered only after it is on disk.
        """
        try:
            yield
        except OSError as error:
            self.troubles.add(f"{what} ({error.strerror or error})")

    def new_id(self) -> str:
        """Make a run id that no run has."""
        while (run_id := new_run_id()) in self.known_ids:
            pass
        self.known_ids.add(run_id)
        return run_id

    def enter(self, taken: claim.Claimed | claim.Refused) -> None:
        """Take up what a claim made."""
        if isinstance(taken, claim.Refused):
            self.refused(taken)
            return
        self.sequence = taken.record.sequence
        live = Live(run=taken.run, record=taken.record, spec=taken.spec)
        self.runs[taken.record.run_id] = live
        self.say(live, f"{taken.record.job}: claimed", file=taken.record.file_name)

    def refused(self, refused: claim.Refused) -> None:
        """Note that a spec became no run."""
        self.all_succeeded = False
        self.log.say(
            f"{visible(refused.file_name)}: rejected",
            level="warning",
            reason=visible_lines(refused.message),
        )
