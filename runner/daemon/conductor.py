"""The daemon's one loop: it alone knows the order of a round.

It alone knows the whole order. Each step of a round is a file of its own, and they share the book
of runs, which alone writes run.json: the record first, then the view of it under the inbox.
Decisions are made by the pure functions of the neighbouring files.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterable, Iterator, Sequence

from runner.card.find_cards import NamedCard
from runner.contract.ended import EndedRun
from runner.contract.record import RunRecord, read_record
from runner.contract.settings import Settings
from runner.contract.token_entries import sweep_entries
from runner.daemon.book import ENDED_SHOWN, Live
from runner.daemon.cluster.cluster import Cluster
from runner.daemon.cluster.far_child import FarChild
from runner.daemon.cluster.far_runs import follow_cluster
from runner.daemon.daemon import Daemon
from runner.daemon.heartbeat import Heartbeat
from runner.daemon.inbox import view
from runner.daemon.inbox.follow_view import follow_view
from runner.daemon.inbox.gate import OutputsError
from runner.daemon.inbox.intake import Intake
from runner.daemon.inbox.misplaced import Misplaced
from runner.daemon.inbox.state_folders import make_state_folders
from runner.daemon.inbox.watch import POLL_SECONDS
from runner.daemon.inbox.write_answers import Answers, answer_of
from runner.daemon.leftovers import sweep_inbox
from runner.daemon.promotion.at_end import heal_all, promote_waiting
from runner.daemon.promotion.ratings import Ratings
from runner.daemon.requests.again import follow_again
from runner.daemon.requests.carry_out import carry_out_requests
from runner.daemon.schedule.hours import hours_line, interrupt_outside_hours
from runner.daemon.schedule.schedules import Schedules
from runner.daemon.stages.adopt import drop_what_is_replaced
from runner.daemon.stages.end import reap
from runner.daemon.stages.folder_gone import end_runs_without_folder
from runner.daemon.stages.follow_plans import follow_plans
from runner.daemon.stages.hang import watch_for_hangs
from runner.daemon.stages.keep_standing_by import end_standing_by, keep_standing_by
from runner.daemon.stages.process import Child
from runner.daemon.stages.space import watch_space
from runner.daemon.stages.start import start_what_can
from runner.daemon.start.close_attempts import close_attempts
from runner.daemon.start.look_again import LookAgain
from runner.daemon.start.recover import recover
from runner.daemon.start.take_up import Specless, mend_specs, show_damaged, take_up
from runner.daemon.tidy import Tidy
from runner.errors import RunnerError
from runner.exit_codes import ExitCode
from runner.files.beneath import Folder
from runner.words import visible

_TRIES_ONCE = 3  # with ``once``, a run whose own folder is in the way is tried so often
_LAST_WRITES_SECONDS = 10.0  # for the records of stages that ended when asked to leave
_BUSY_WAIT_SECONDS = 1.0  # the longest wait while a child runs
_REPORT_WAIT_SECONDS = 0.5  # while a page is written: the next one need not wait for long
_SWEEP_SECONDS = 600.0  # it lists one small folder; erased rows should not stay for days
_DATA_LOOK_SHARE, _DATA_LOOK_MOST_SECONDS = 1 / 10, 5.0
"""Data is seen late by a tenth of the time that was waited for it: nobody notices, and a job
that waits overnight costs as little as an empty queue."""


class Conductor:
    """The daemon's loop."""

    def __init__(self, settings: Settings, named_cards: Sequence[NamedCard] = ()) -> None:
        self.settings = settings
        self.daemon = Daemon(settings, named_cards)
        self.intake = Intake(self.daemon)
        self.misplaced = Misplaced(self.daemon)
        self.schedules = Schedules(self.daemon)
        self.ratings = Ratings(self.daemon)
        self.answers = Answers(self.daemon)
        self.heartbeat = Heartbeat(self.daemon)
        self.tidy = Tidy(self.daemon)
        self.hears_of_changes = False
        """Whether events tell of what comes into the inbox; else it is looked at more often."""
        self.made: set[str] = set()
        """State folders that were missing and have been made, since they were last looked into."""
        self._specless: list[Specless] = []
        self._left = LookAgain(self.daemon, [], at=0.0)
        self._troubles: set[str] = set()
        self._swept_at = -_SWEEP_SECONDS
        self._all_ended_at: float | None = None
        """Monotonic time at which, asked to leave, no child was at work any more."""

    def begin(self) -> bool:
        """Take up what an earlier daemon left, once the disk lets it; False: told to leave."""
        taken_up = False
        while not taken_up and not self.daemon.stopping:
            self.heartbeat.goes_on()
            self.daemon.begin_round()
            with self.daemon.noting_trouble():
                self._start()
                taken_up = True
            self._say_troubles()
            if self.settings.once:
                break
            if not taken_up:
                self.daemon.wakeup.wait(self.settings.rescan_seconds)
        return taken_up

    def _start(self) -> None:
        """Take up what an earlier daemon left."""
        daemon = self.daemon
        if self.settings.cluster and daemon.cluster is None:
            daemon.cluster = Cluster(self.settings, say_event=daemon.log.say)
        found = recover(daemon.outputs, alive=self.heartbeat.goes_on)
        for note in found.notes:
            daemon.log.say(note, level="warning")
        for name, why in found.unreadable_folders.items():
            what = f"outputs/{visible(name)}/ cannot be looked into ({why})"
            if name == "lost+found":  # every ext4 disk has one, and it is root's alone
                daemon.log.say(f"{what}; it is passed over")
            else:
                daemon.note(what, f"{what}: if runs lie in it, let the runner's user read it")
        daemon.book.left_alone = set(found.unreadable)
        daemon.book.sequence = found.highest_sequence
        daemon.book.damaged, daemon.book.damaged_now = found.damaged, found.damaged_now
        for one in found.ended:
            daemon.book.ends.note(
                job=one.job, run_id=one.run_id, state=one.state, sequence=one.sequence
            )
        daemon.book.ended = list(_records(daemon, found.ended[-ENDED_SHOWN:]))
        heal_all(daemon, daemon.book.ended)
        daemon.to_tidy |= {folder.name for folder in daemon.outputs.job_folders()}
        daemon.reports.want_missing(daemon.book.ended, time.monotonic())
        taken_up = [take_up(daemon, run, record) for run, record in found.live]
        self._specless = [one for one in taken_up if one is not None]
        self._left = LookAgain(daemon, found.again, at=time.monotonic())
        if daemon.cluster is not None:
            daemon.cluster.sweep()

    def _heal_ended(self, inbox: Folder) -> None:
        """Bring runs that have ended to their place.

        The last daemon may not have come to it, or the share was away when they ended.
        """
        daemon = self.daemon
        if daemon.inbox.is_fresh:
            sweep_inbox(inbox)
            daemon.book.to_heal += self._ended_elsewhere(inbox)
            daemon.inbox.is_fresh = False
        if not daemon.book.to_heal:
            return
        where = view.scan_under_way(inbox)
        for record in daemon.book.to_heal:
            if record.run_id in where:
                run = daemon.outputs.run(record.job, record.run_id)
                what = f"{visible(record.job)} ({record.run_id}): its answer"
                with daemon.noting(answer_of(record), what):
                    view.conclude(
                        inbox,
                        record,
                        run,
                        where[record.run_id],
                        says=daemon.says,
                    )
                    daemon.reports.want(record, time.monotonic())
        daemon.book.to_heal = []

    def _ended_elsewhere(self, inbox: Folder) -> list[RunRecord]:
        """Find runs that have ended and still show as queued or running."""
        daemon = self.daemon
        known = {*daemon.book.runs, *(record.run_id for record in daemon.book.to_heal)}
        shown = view.scan_under_way(inbox).keys() - known
        found = []
        for run in daemon.outputs.runs() if shown else ():
            if run.run_id in shown:
                with contextlib.suppress(OSError, RunnerError):
                    found.append(read_record(run.record))
        return [record for record in found if record.state.is_final]

    def work(self) -> int:
        """Go round until asked to leave, or, with ``once``, until all is done."""
        try:
            return self._work()
        finally:
            end_standing_by(self.daemon)
            self._finish_reports()

    def _finish_reports(self) -> None:
        """Give the pages of runs that have just ended some time, without harm to the end."""
        try:
            with self.daemon.open_inbox() as inbox:
                self.daemon.reports.finish(inbox)
        except (OSError, RunnerError):
            self.daemon.reports.finish(None)

    def _work(self) -> int:
        daemon, stopping = self.daemon, False
        while True:
            at = time.monotonic()
            if daemon.stopping and not stopping:
                daemon.log.say("stopping: stages are asked for a checkpoint")
            stopping = daemon.stopping
            self._round(at)
            busy = self._is_busy(at)
            if daemon.stopping and not busy:
                unwritten = any(live.child for live in daemon.book.runs.values())
                left = unwritten or (self.settings.once and daemon.book.runs)
                return 0 if daemon.book.all_succeeded and not left else 1
            here = any(isinstance(live.child, Child) for live in daemon.book.runs.values())
            if daemon.cards.must_end and not here and daemon.again is None:
                daemon.log.say("ending, to be started again with the GPU", level="warning")
                return ExitCode.GPU_LOST
            if self.settings.once and not (
                busy
                or daemon.erasing
                or self.intake.specs
                or self.schedules.is_busy
                or self.tidy.is_busy
            ):
                if not daemon.book.runs and not self._specless:
                    return 0 if daemon.book.all_succeeded else 1
                held = daemon.hold is not None or daemon.cards.problem
                if held or daemon.inbox_problem or daemon.troubles or self._is_stuck(at):
                    return 1  # the box, not the runs: they go on at the next start
            daemon.wakeup.wait(self._wait_seconds(at, busy=busy))

    def _round(self, at: float) -> None:
        """Do once all that there is to do."""
        daemon, step = self.daemon, self.heartbeat.rounds.step
        step("stages that ended")
        daemon.begin_round()
        follow_cluster(daemon, at)
        follow_plans(daemon, at)
        drop_what_is_replaced(daemon, at)
        end_runs_without_folder(daemon, at)
        with daemon.noting_trouble():
            self._specless += self._left.look(at)
        close_attempts(daemon, at)
        reap(daemon, at)
        follow_again(daemon, at)
        promote_waiting(daemon)
        if not daemon.stopping:
            step("disk space and stages that hang")
            with daemon.noting_trouble():
                watch_space(daemon, at)
                watch_for_hangs(daemon, at)
                interrupt_outside_hours(daemon, at)
            step("requests")
            with daemon.noting_trouble("requests cannot be read"):
                carry_out_requests(daemon)
            step("old files")
            with daemon.noting_trouble("old files cannot be removed"):
                self.tidy.go_on()
        self._sweep(at)
        self._look_at_inbox(at)
        if not daemon.stopping:
            step("starting stages")
            with daemon.noting_trouble():
                start_what_can(daemon, at)
                keep_standing_by(daemon, at)
        step("heartbeat")
        self._say_troubles()
        self.heartbeat.beat(at)
        self.heartbeat.rounds.end()

    def _sweep(self, at: float) -> None:
        """Remove cached tokens whose runs were erased: their folders, deleted by hand."""
        if at - self._swept_at >= _SWEEP_SECONDS:
            self._swept_at = at
            sweep_entries(self.daemon.outputs.token_cache)

    def _is_stuck(self, at: float) -> bool:
        """Whether each run that is left has to rest, lacks cards, or is in its own way."""
        return all(
            answer_of(live.record) in self.daemon.notes
            if live.record.state.is_final
            else max(live.failures_in_a_row, live.unread_in_a_row) >= _TRIES_ONCE
            or max(live.rests_after_fall_until, live.trained_again_at) > at
            or live.lacks_cards
            for live in self.daemon.book.runs.values()
        )

    def _is_busy(self, at: float) -> bool:
        """Whether a child is at work, or its end is still to be written.

        Where that cannot be written, whoever asked the daemon to leave does not wait for it: the
        next start finds the stage open.
        """
        daemon = self.daemon
        lives = daemon.book.runs.values()
        children = [
            live.child
            for live in lives
            if live.child and not (daemon.stopping and isinstance(live.child, FarChild))
        ]
        if daemon.again is not None:
            children.append(daemon.again.child)
        if not daemon.stopping or not all(child.has_ended for child in children):
            self._all_ended_at = None
            return bool(children)
        self._all_ended_at = at if self._all_ended_at is None else self._all_ended_at
        if daemon.hashes.at_work and not daemon.hurry:
            self._all_ended_at = at  # their checkpoints are being checked
        return bool(children) and at - self._all_ended_at < _LAST_WRITES_SECONDS

    def _wait_seconds(self, at: float, *, busy: bool) -> float:
        daemon = self.daemon
        settle = self.settings.settle_seconds
        waits = [self.settings.rescan_seconds]
        if not self.hears_of_changes:
            waits.append(POLL_SECONDS)
        if busy or daemon.troubles:
            waits.append(_BUSY_WAIT_SECONDS)
        if daemon.cluster is not None:
            waits.append(daemon.cluster.beat_seconds)
        waits += [
            max(0.01, settle - seen.unchanged_seconds(at))
            for seen in self.intake.specs.values()
            if seen.unchanged_seconds(at) < settle
        ]
        waits += [
            max(0.05, settle / 2, _data_look_apart(live, at))
            for live in daemon.book.runs.values()
            if live.record.waiting
        ]
        if daemon.reports.is_busy:
            waits.append(_REPORT_WAIT_SECONDS)
        if daemon.next_look:
            waits.append(max(0.0, daemon.next_look - at))
        return min(waits)

    def ask_to_stop(self, *_signal: object) -> None:
        """Leave: children are asked to stop, and are waited for; asked again, they are not."""
        self.daemon.hurry = self.daemon.stopping
        self.daemon.stopping = True
        self.daemon.wakeup.set()

    def _look_at_inbox(self, at: float) -> None:
        daemon, step = self.daemon, self.heartbeat.rounds.step
        step("opening the inbox")
        daemon.next_look = 0.0
        try:
            with daemon.open_inbox() as inbox:
                for note in daemon.inbox.notes:
                    daemon.log.say(note, level="warning")
                daemon.inbox.notes.clear()
                made, self.made = self.made | make_state_folders(inbox), set()
                if not daemon.stopping:
                    step("claiming specs")
                    self.intake.claim_settled(inbox, at)
                    step("schedules")
                    with daemon.noting_trouble("schedules cannot be written"):
                        self.schedules.look(inbox, at)
                    with daemon.noting_trouble():
                        self.ratings.look(inbox, at)
                step("following specs")
                self._heal_ended(inbox)
                mend_specs(daemon, inbox, self._specless)
                show_damaged(daemon, inbox)
                places = follow_view(daemon, inbox, at, made=made)
                if not daemon.stopping:
                    self.misplaced.take_up(inbox, places, at)
                step("writing answers")
                self.answers.write(
                    inbox,
                    at,
                    where=places.where,
                    unclaimable=self.intake.unclaimable.values(),
                    strays=self.intake.strays.sentences.values(),
                    scheduled=self.schedules.lines(),
                    hours=hours_line(daemon),
                )
                step("starting reports")
                daemon.reports.go_on(at, inbox)
            self._inbox_problem("")
        except (OSError, RunnerError) as error:
            is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            if is_full and not isinstance(error, OutputsError):
                # It can be read, and runs need no more of it: only the answers are behind.
                daemon.troubles.add("the inbox's disk is full: answers are not written")
                return
            # Nothing is concluded from an inbox that cannot be read: no run is cancelled by it.
            for live in daemon.book.runs.values():
                live.absent_since = None
            if isinstance(error, OutputsError):
                daemon.troubles.add(f"the outputs folder cannot be written ({error.strerror})")
                return
            self._inbox_problem(f"the inbox is unavailable ({error})")

    def _say_troubles(self) -> None:
        new, old = self.daemon.troubles, self._troubles
        for trouble in sorted(new - old):
            self.daemon.log.say(trouble, level="warning")
        if old and not new:
            self.daemon.log.say("what could not be written can be written again")
        self._troubles = new

    def _inbox_problem(self, problem: str) -> None:
        if problem != self.daemon.inbox_problem:
            self.daemon.log.say(problem or "the inbox is there again", level="warning")
            self.daemon.inbox_problem = problem
            if not problem:  # what was half-written when it went could not be removed then
                self.daemon.inbox.is_fresh = True
                self.daemon.next_look = time.monotonic()


def _data_look_apart(live: Live, at: float) -> float:
    """Give the seconds between looks for data that a run waits for: the longer it waits, the more.

    No event tells of data: it lies in folders below the inbox.
    """
    since = live.waits_for_data_since
    if since is None:
        return 0.0
    return min(_DATA_LOOK_MOST_SECONDS, (at - since) * _DATA_LOOK_SHARE)


def _records(daemon: Daemon, ended: Iterable[EndedRun]) -> Iterator[RunRecord]:
    for one in ended:
        with contextlib.suppress(OSError, RunnerError):  # removed just now
            yield read_record(daemon.outputs.run(one.job, one.run_id).record)
