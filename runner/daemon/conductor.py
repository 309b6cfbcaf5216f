"""Turns the inbox, the requests and the children's ends into runs: the one loop of the daemon.

It alone knows the whole order. Each step of a round is a file of its own, and they share the book
of runs, which alone writes run.json: the record first, then the view of it under the inbox.
Decisions are made by the pure functions of the neighbouring files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time

from runner.contract.layout import STATE_FOLDERS
from runner.contract.record import RunRecord, read_record
from runner.contract.requests import read_requests
from runner.contract.settings import Settings
from runner.daemon.book import ENDED_SHOWN, Book
from runner.daemon.heartbeat import Heartbeat
from runner.daemon.inbox import view
from runner.daemon.inbox.follow_view import follow_view
from runner.daemon.inbox.intake import Intake
from runner.daemon.inbox.watch import POLL_SECONDS, watch
from runner.daemon.inbox.write_answers import Answers
from runner.daemon.leftovers import sweep_inbox
from runner.daemon.stages.end import reap
from runner.daemon.stages.follow_plans import follow_plans
from runner.daemon.stages.hang import watch_for_hangs
from runner.daemon.stages.space import watch_space
from runner.daemon.stages.start import start_what_can
from runner.daemon.start.at_start import Examine
from runner.daemon.start.recover import recover, unfinished
from runner.daemon.start.take_up import Specless, mend_specs, show_damaged, take_up
from runner.errors import BusyError, RunnerError, UnansweredError
from runner.exit_codes import ExitCode
from runner.files.beneath import Folder
from runner.files.lock import Lock

_BUSY_WAIT_SECONDS = 1.0  # the longest wait while a child runs


class Conductor:
    """The daemon's loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.book = Book(settings)
        self.intake = Intake(self.book)
        self.answers = Answers(self.book)
        self.heartbeat = Heartbeat(self.book)
        self.hears_of_changes = False
        """Whether events tell of what comes into the inbox; else it is looked at more often."""
        self._specless: list[Specless] = []
        self._troubles: set[str] = set()

    def begin(self) -> bool:
        """Take up what an earlier daemon left, once the disk lets it; False: told to leave."""
        taken_up = False
        while not taken_up and not self.book.stopping:
            self.book.troubles = set()
            with self.book.noting_trouble():
                self._start()
                taken_up = True
            self._say_troubles()
            if self.settings.once:
                break
            if not taken_up:
                self.book.wakeup.wait(self.settings.rescan_seconds)
        return taken_up

    def _start(self) -> None:
        """Take up what an earlier daemon left."""
        book = self.book
        found = recover(book.outputs)
        for note in found.notes:
            book.log.say(note, level="warning")
        book.sequence = found.highest_sequence
        book.damaged, book.damaged_now = found.damaged, found.damaged_now
        book.ended = found.ended[-ENDED_SHOWN:]
        book.known_ids = {
            *found.unreadable,
            *(record.run_id for record in found.ended),
            *(record.run_id for _, record in found.live),
        }
        taken_up = [take_up(book, run, record) for run, record in found.live]
        self._specless = [one for one in taken_up if one is not None]
        book.to_heal = found.ended

    def _heal_ended(self, inbox: Folder) -> None:
        """Bring runs that have ended to their place.

        The last daemon may not have come to it, or the share was away when they ended.
        """
        book = self.book
        if book.inbox.is_fresh:
            sweep_inbox(inbox)
            book.to_heal += self._ended_elsewhere(inbox)
            book.inbox.is_fresh = False
        if not book.to_heal:
            return
        where = view.scan_under_way(inbox)
        for record in book.to_heal:
            if record.run_id in where:
                run = book.outputs.run(record.job, record.run_id)
                view.conclude(inbox, record, run, where[record.run_id])
        book.to_heal = []

    def _ended_elsewhere(self, inbox: Folder) -> list[RunRecord]:
        """Find runs that have ended and still show as queued or running."""
        book = self.book
        known = {*book.runs, *(record.run_id for record in book.to_heal)}
        shown = view.scan_under_way(inbox).keys() - known
        found = []
        for run in book.outputs.runs() if shown else ():
            if run.run_id in shown:
                with contextlib.suppress(OSError, RunnerError):
                    found.append(read_record(run.record))
        return [record for record in found if record.state.is_final]

    def work(self) -> int:
        """Go round until asked to leave, or, with ``once``, until all is done."""
        book, stopping = self.book, False
        while True:
            at = time.monotonic()
            book.troubles = set()
            with book.noting_trouble():
                follow_plans(book)
            if book.stopping and not stopping:
                book.log.say("stopping: stages are asked for a checkpoint")
            stopping = book.stopping
            reap(book, at)
            if not book.stopping:
                with book.noting_trouble():
                    watch_space(book, at)
                    watch_for_hangs(book, at)
                    self._carry_out_requests()
            self._look_at_inbox(at)
            if not book.stopping:
                with book.noting_trouble():
                    start_what_can(book, at)
            self._say_troubles()
            self.heartbeat.beat(at)
            busy = any(live.child for live in book.runs.values())
            if book.stopping and not busy:
                return 0 if book.all_succeeded and not (self.settings.once and book.runs) else 1
            if book.guard.standing.must_end and not busy:
                book.log.say("ending, to be started anew with the GPU", level="warning")
                return ExitCode.GPU_LOST
            if self.settings.once and not busy and not self.intake.specs:
                if not book.runs and not self._specless:
                    return 0 if book.all_succeeded else 1
                held = book.hold is not None or book.guard.standing.problem
                if held or book.inbox_problem or book.troubles:
                    return 1  # the box, not the runs: they go on at the next start
            book.wakeup.wait(self._wait_seconds(at, busy=busy))

    def _wait_seconds(self, at: float, *, busy: bool) -> float:
        book = self.book
        settle = self.settings.settle_seconds
        waits = [self.settings.rescan_seconds]
        if not self.hears_of_changes:
            waits.append(POLL_SECONDS)
        if busy or book.troubles:
            waits.append(_BUSY_WAIT_SECONDS)
        waits += [
            max(0.01, settle - seen.unchanged_seconds(at))
            for seen in self.intake.specs.values()
            if seen.unchanged_seconds(at) < settle
        ]
        if any(live.record.waiting for live in book.runs.values()):
            waits.append(max(0.05, settle / 2))
        if book.next_look:
            waits.append(max(0.0, book.next_look - at))
        return min(waits)

    def ask_to_stop(self, *_signal: object) -> None:
        """Leave: children are asked to stop, and are waited for; asked again, they are not."""
        self.book.hurry = self.book.stopping
        self.book.stopping = True
        self.book.wakeup.set()

    def _look_at_inbox(self, at: float) -> None:
        book = self.book
        book.next_look = 0.0
        try:
            with book.open_inbox() as inbox:
                for name in STATE_FOLDERS:
                    inbox.make_folder(name, mode=0o770)
                if not book.stopping:
                    self.intake.claim_settled(inbox, at)
                self._heal_ended(inbox)
                mend_specs(book, inbox, self._specless)
                show_damaged(book, inbox)
                where = follow_view(book, inbox, at)
                unclaimable = self.intake.unclaimable.values()
                self.answers.write(inbox, at, where=where, unclaimable=unclaimable)
            self._inbox_problem("")
        except (OSError, RunnerError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                # It can be read, and runs need no more of it: only the answers are behind.
                book.troubles.add("the inbox's disk is full: answers are not written")
                return
            # Nothing is concluded from an inbox that cannot be read: no run is cancelled by it.
            for live in book.runs.values():
                live.absent_since = None
            self._inbox_problem(f"the inbox is unavailable ({error})")

    def _say_troubles(self) -> None:
        new, old = self.book.troubles, self._troubles
        for trouble in sorted(new - old):
            self.book.log.say(trouble, level="warning")
        if old and not new:
            self.book.log.say("what could not be written can be written again")
        self._troubles = new

    def _inbox_problem(self, problem: str) -> None:
        if problem != self.book.inbox_problem:
            self.book.log.say(problem or "the inbox is there again", level="warning")
            self.book.inbox_problem = problem
            if not problem:  # what was half-written when it went could not be removed then
                self.book.inbox.is_fresh = True
                self.book.next_look = time.monotonic()

    def _carry_out_requests(self) -> None:
        book = self.book
        for request in read_requests(book.outputs):
            live = book.runs.get(str(request.args.get("run_id")))
            if request.verb == "cancel" and live is not None:
                book.cancel(live, "a command asked for it")
                if not live.record.state.is_final:
                    continue  # its child is leaving; should the power go now, it is asked again
            else:
                book.log.say("a request cannot be carried out", verb=request.verb, **request.args)
            request.done()


def _begin_with_inbox(conductor: Conductor) -> bool:
    """Take the inbox before anything is done with it, where it is there already.

    False: whoever asks it for anything waits, perhaps for ever.

    Raises:
        BusyError: another daemon has it.
    """
    settings = conductor.settings
    try:
        conductor.book.inbox.make()
        with conductor.book.inbox.open(unfinished(settings.outputs)) as inbox:
            for name in STATE_FOLDERS:
                inbox.make_folder(name, mode=0o770)
    except BusyError:
        raise
    except UnansweredError:
        return False
    except (OSError, RunnerError):
        pass  # a share that is not mounted yet, or is broken: the loop says so, and waits
    return True


def run_daemon(settings: Settings, *, examine: Examine | None = None) -> int:
    """Run the daemon until it is asked to stop, or with ``once`` until all is done.

    Args:
        settings: the box owner's.
        examine: looks at the box before the first round.

    Raises:
        BusyError: another daemon has the outputs folder or the inbox.
    """
    os.umask(0o027)  # results are for their owner and the share's group: 0750 and 0640
    outputs = settings.outputs
    for folder in (outputs.private, outputs.requests, settings.stage_home):
        folder.mkdir(parents=True, exist_ok=True)
    lock = Lock.take(outputs.lock, what=f"The outputs folder {settings.outputs_dir}")
    conductor = Conductor(settings)
    observer = None
    try:
        answers = _begin_with_inbox(conductor)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, conductor.ask_to_stop)
        light = examine(settings, conductor.book.log) if examine and answers else None
        polling = settings.polling if answers else True
        if light is not None:
            if light.answer is not None:
                conductor.book.guard.take(light.answer, time.monotonic())
            polling = light.polling if polling is None else polling
        observer = watch(settings.jobs_dir, polling=polling, wake=conductor.book.wakeup.set)
        conductor.hears_of_changes = observer is not None
        conductor.book.log.say("watching", inbox=str(settings.jobs_dir), pid=os.getpid())
        status = conductor.work() if conductor.begin() else 1
        conductor.book.log.say("ended", exit_code=int(status))
        return status
    finally:
        if observer is not None:
            observer.stop()
            observer.join(timeout=5.0)
        conductor.book.inbox.release()
        lock.release()
