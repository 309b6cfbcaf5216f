"""Schedules: specs in jobs/scheduled/ start runs at their times, each time once.

What is done at a time is decided in `due.py`; it is written down before the run is made, and the
run's id with it, so that a daemon that is killed in between makes that very run and no second one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from runner import clock
from runner.contract.layout import FILE_NAME_BYTES, SCHEDULED, claimed_name, job_name
from runner.contract.record import RunRecord, read_record
from runner.contract.schedules import (
    Last,
    Outcome,
    Schedule,
    Starting,
    read_schedules,
    write_schedules,
)
from runner.daemon.ask_aside import Aside
from runner.daemon.daemon import Daemon
from runner.daemon.inbox import claim
from runner.daemon.inbox.enter import enter
from runner.daemon.inbox.view import SPEC_BYTES
from runner.daemon.inbox.wait_for_data import named_files
from runner.daemon.schedule.answer import schedule_answer, schedule_line
from runner.daemon.schedule.due import SET_BACK, Action, Decision, decide, first_due
from runner.daemon.schedule.folder import MOST, ScheduledFolder, SpecFile
from runner.daemon.schedule.same_data import run_with_the_same_data
from runner.errors import RunnerError, UnsafePathError
from runner.files.beneath import Folder
from runner.files.crash_points import reached
from runner.words import visible

_READ_SECONDS, _ACT_SECONDS, _ANSWER_SECONDS = 0.03, 0.06, 0.08
"""So long after a look began no further spec is read, no run is started and no answer is written:
they wait for the next round, which is to take 0.2 s at most with all that it does (rounds.py)."""
_GONE_SECONDS = 5.0  # an editor that saves by deleting and writing anew is quicker
_SHOWN = 20  # problems of the folder that STATUS.txt names one by one
_SKIPPED = {
    Action.SKIP_BUSY: Outcome.BUSY,
    Action.SKIP_MISSED: Outcome.MISSED,
    Action.SKIP_AGAIN: Outcome.AGAIN,
}


@dataclass(kw_only=True)
class _Check:
    """Whether a job's data has changed is being found out."""

    name: str
    due: datetime
    aside: Aside[str | None]
    asked_at: float
    """The loop's time at which its schedule last wanted to know."""


class Schedules:
    """Remembers the schedules, and when each comes next."""

    def __init__(self, daemon: Daemon) -> None:
        """Begin with nothing read."""
        self.daemon = daemon
        self.folder = ScheduledFolder(daemon.settings)
        self._known: dict[str, Schedule] | None = None
        self._next: dict[str, datetime] = {}
        """File name → its first time that is not dealt with."""
        self._used: dict[str, str] = {}
        """File name → hash and problem of what its schedule was last made from."""
        self._gone: dict[str, float] = {}
        self._behind_since: dict[str, float] = {}
        self._check: _Check | None = None
        self._all_read = True
        self._answered: dict[str, tuple[object, str]] = {}
        """File name → what its answer was made from, and its text."""
        self._lines: list[str] | None = None
        self._ended: dict[str, RunRecord] = {}
        self._noted: set[str] = set()

    @property
    def is_busy(self) -> bool:
        """Whether there is something to do at once: a spec to read, or data to compare."""
        return self._check is not None or not self._all_read

    def look(self, inbox: Folder, at: float) -> None:
        """Start what is due; answer beside each spec."""
        daemon, began = self.daemon, time.monotonic()
        with daemon.noting(f"jobs/{SCHEDULED}", f"jobs/{SCHEDULED}/"):
            with inbox.open_folder(SCHEDULED) as folder:
                if self._known is None:
                    self._known = read_schedules(daemon.outputs)
                    for name in [name for name, one in self._known.items() if one.starting]:
                        self._finish(inbox, folder, name, self._known[name])
                if self.folder.is_due(at):
                    self.folder.list(folder, at)
                self._all_read = self.folder.read(folder, at, until=began + _READ_SECONDS)
                if not self._all_read:
                    daemon.look_by(at)
                self._take_over(folder, at)
                self._act(inbox, folder, at, until=began + _ACT_SECONDS)
                self._write_answers(folder, at, until=began + _ANSWER_SECONDS)
            self._note_problems()

    # -- what lies there --------------------------------------------------------------------------

    @property
    def known(self) -> Mapping[str, Schedule]:
        """What is known of each spec, by file name."""
        return self._known or {}

    def _save(self, changed: Mapping[str, Schedule | None]) -> None:
        """Write down what changes, first on disk.

        Raises:
            OSError: it cannot be written; then nothing has changed.
        """
        after = {**self.known, **changed}
        kept = {name: one for name, one in after.items() if one is not None}
        write_schedules(self.daemon.outputs, kept)
        self._known, self._lines = kept, None
        for name in changed:
            self._next.pop(name, None)

    def _take_over(self, folder: Folder, at: float) -> None:
        """Follow what was put there, edited and deleted."""
        now, changed = clock.now(), dict[str, Schedule | None]()
        self.folder.find_twins({name for name, one in self.known.items() if not one.problem})
        used = {}
        for name, file in self.folder.files.items():
            key = f"{file.sha256} {file.problem}"
            if file.read is None or self._used.get(name) == key:
                continue
            used[name] = key
            before = self.known.get(name)
            after = _brought_up_to_date(name, file, before, now)
            if after != before:
                changed[name] = after
                self._say_change(name, before, after)
        gone = self.known.keys() - self.folder.files.keys()
        self._gone = {name: self._gone.get(name, at) for name in gone}
        for name, since in self._gone.items():
            if at - since >= _GONE_SECONDS or self.daemon.settings.once:
                changed[name] = None
                self._used.pop(name, None)
                self._answered.pop(name, None)
                folder.remove_file(f"{name}.txt")
                self.daemon.log.say(f"{visible(name)}: is on schedule no more, it was deleted")
        if changed:
            self._save(changed)
        if used or changed:
            specs = [file.spec for file in self.folder.files.values() if file.spec is not None]
            named = frozenset(path for spec in specs for path in named_files(spec))
            self.daemon.scheduled_data = named
        self._used |= used

    def _say_change(self, name: str, before: Schedule | None, after: Schedule) -> None:
        if after.problem:
            self.daemon.log.say(
                f"{visible(name)}: its schedule is paused", level="warning", reason=after.problem
            )
        elif before is None or before.line != after.line or before.problem:
            self.daemon.log.say(f"{after.job}: on schedule", file=name, schedule=after.line)

    # -- what is due ------------------------------------------------------------------------------

    def _act(self, inbox: Folder, folder: Folder, at: float, *, until: float) -> None:
        daemon, now = self.daemon, clock.now()
        for name, file in self.folder.files.items():
            known = self.known.get(name)
            if known is None or known.problem or file.spec is None or not file.is_current:
                continue
            if time.monotonic() >= until:
                daemon.look_by(at)  # the rest in the next round, at once
                return
            if name not in self._next:
                self._next[name], self._lines = first_due(known), None
            if self._next[name] > now and now + SET_BACK >= known.done_until:
                self._behind_since.pop(name, None)
                continue
            self._act_on(inbox, folder, name, file, at=at, now=now)
        if self._check is not None and self._check.asked_at < at:
            self._check = None  # deleted, edited or busy meanwhile: the others do not wait for it
            daemon.look_by(at)

    def _act_on(
        self, inbox: Folder, folder: Folder, name: str, file: SpecFile, *, at: float, now: datetime
    ) -> None:
        known, spec = self.known[name], file.spec
        assert spec is not None
        running = self._under_way(known.job)
        behind = now + SET_BACK < known.done_until
        since = self._behind_since.setdefault(name, at) if behind else at
        decision = decide(
            known,
            now=now,
            next_due=self._next[name],
            busy=running is not None,
            makes_up=spec.when_missed == "run",
            behind_seconds=at - since,
        )
        if decision.action is Action.SET_BACK:
            self._behind_since.pop(name, None)
            self._save({name: known.but(done_until=now)})
            self.daemon.log.say(f"{known.job}: the clock was set back; counted from now on")
        elif decision.action in _SKIPPED and decision.due is not None:
            self._skip(name, decision.due, _SKIPPED[decision.action], running)
        elif decision.action is Action.START and decision.due is not None:
            if spec.when_data_changed and not self._has_changed(name, file, decision.due, at):
                return
            self._start(inbox, folder, name, decision)

    def _under_way(self, job: str) -> str | None:
        """Give the job's run that is queued or under way."""
        for live in self.daemon.book.runs.values():
            if live.record.job == job and not live.record.state.is_final:
                return live.record.run_id
        return None

    def _skip(self, name: str, due: datetime, why: Outcome, run_id: str | None) -> None:
        known = self.known[name]
        last = Last(due=due, at=clock.now(), outcome=why, run_id=run_id)
        self._save({name: known.but(done_until=max(due, known.done_until), last=last)})
        self.daemon.log.say(f"{known.job}: nothing is started", reason=why.value, run=run_id)

    def _has_changed(self, name: str, file: SpecFile, due: datetime, at: float) -> bool:
        """Whether the data is another than at the last run; False also while it is not known."""
        if self._check is None:
            daemon, spec, sha256 = self.daemon, file.spec, file.sha256
            assert spec is not None

            def ask() -> str | None:
                settings = daemon.settings
                return run_with_the_same_data(
                    settings.jobs_dir, daemon.outputs, spec, sha256, models_dir=settings.models_dir
                )

            aside = Aside(ask, done=daemon.wakeup.set)
            self._check = _Check(name=name, due=due, aside=aside, asked_at=at)
            aside.ask(at)
        if self._check.name != name:
            return False  # one after the other
        self._check.asked_at = at
        answered = self._check.aside.take()
        if answered is None:
            return False
        asked, self._check = self._check, None
        if answered.value is None or asked.due != due:
            return answered.value is None and asked.due == due
        self._skip(name, due, Outcome.SAME_DATA, answered.value)
        return False

    # -- starting a run ---------------------------------------------------------------------------

    def _start(self, inbox: Folder, folder: Folder, name: str, decision: Decision) -> None:
        assert decision.due is not None
        starting = Starting(run_id=self.daemon.book.new_id(), due=decision.due, late=decision.late)
        self._save({name: self.known[name].but(starting=starting)})
        reached("schedule noted")
        self._finish(inbox, folder, name, self.known[name])

    def _finish(self, inbox: Folder, folder: Folder, name: str, known: Schedule) -> None:
        """Make the run that was begun to be started, unless it is there already."""
        starting = known.starting
        assert starting is not None
        daemon, run_id = self.daemon, starting.run_id
        daemon.book.met(run_id)
        if not daemon.outputs.has_record(run_id) and not self._make_run(
            inbox, folder, name, run_id
        ):
            self._save({name: known.but(starting=None)})  # the spec went, or is being edited
            return
        outcome = Outcome.LATE if starting.late else Outcome.STARTED
        last = Last(due=starting.due, at=clock.now(), outcome=outcome, run_id=run_id)
        until = max(starting.due, known.done_until)
        after = known.but(starting=None, done_until=until, last=last, last_run_id=run_id)
        self._save({name: after})

    def _make_run(self, inbox: Folder, folder: Folder, name: str, run_id: str) -> bool:
        """Queue a copy of the spec as a run; False: there is no spec any more."""
        daemon, copy = self.daemon, claimed_name(name, run_id)
        with inbox.open_folder("queued") as queued:
            try:
                queued.stat(copy)
            except FileNotFoundError:
                try:
                    content = folder.read_file(name, limit_bytes=SPEC_BYTES)
                except (FileNotFoundError, UnsafePathError):
                    return False
                if self._is_being_edited(name, content):
                    return False
                queued.write_bytes(copy, content)
                queued.sync()
        reached("scheduled copy written")
        taken = claim.adopt(
            inbox,
            daemon.outputs,
            copy,
            file_name=name,
            run_id=run_id,
            sequence=daemon.book.sequence + 1,
            trigger="schedule",
            cards=daemon.cards.served,
            speak=daemon.says.speak,
        )
        enter(daemon, taken)
        return True

    def _is_being_edited(self, name: str, content: bytes) -> bool:
        """Whether a spec is another than the one that was read and checked: then it is read again.

        A run must not be made of half a file that somebody is saving at this moment.
        """
        file = self.folder.files.get(name)
        if file is None or file.spec is None:  # after a restart, before anything was read
            return False
        if hashlib.sha256(content).hexdigest() == file.sha256:
            return False
        file.read = None
        return True

    # -- what people read -------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """Say of each schedule when it comes next, for STATUS.txt."""
        if self._lines is None:
            speak = self.daemon.says.speak
            self._lines = [
                schedule_line(known, self._next.get(name), speak)
                for name, known in self.known.items()
            ]
        return self._lines

    def _write_answers(self, folder: Folder, at: float, *, until: float) -> None:
        for name, file in self.folder.files.items():
            known = self.known.get(name)
            if known is None or (not known.problem and name not in self._next):
                continue
            if time.monotonic() >= until:
                self.daemon.look_by(at)
                return
            last_run = self._last_run(known)
            made_from = (known, self._next.get(name), file.problem, last_run and last_run.state)
            before = self._answered.get(name)
            if before is not None and before[0] == made_from:
                continue
            text = schedule_answer(
                known,
                name=name,
                next_due=self._next.get(name),
                problem=file.problem or known.problem or "",
                last_run=last_run,
                speak=self.daemon.says.speak,
                share_name=self.daemon.settings.share_name,
            )
            self._answered[name] = (made_from, text)  # where it fails: not in each round
            is_new = before is None or before[1] != text
            if is_new and len(f"{name}.txt".encode()) <= FILE_NAME_BYTES:
                folder.write_text(f"{name}.txt", text)

    def _last_run(self, known: Schedule) -> RunRecord | None:
        run_id = known.last_run_id
        if run_id is None:
            return None
        if (live := self.daemon.book.runs.get(run_id)) is not None:
            return live.record
        if run_id not in self._ended:
            try:
                record = read_record(self.daemon.outputs.run(known.job, run_id).record)
            except (OSError, RunnerError):
                return None
            if len(self._ended) > MOST:
                self._ended.clear()
            self._ended[run_id] = record
        return self._ended[run_id]

    def _note_problems(self) -> None:
        """Show in STATUS.txt what needs a person."""
        # First those that no answer can lie beside: only so many are shown.
        found = {
            f"jobs/{SCHEDULED}/{visible(name)}": (
                "is no plain file that can be read: copy the spec itself there, under a plain name"
            )
            for name in self.folder.odd
        }
        found |= {
            f"jobs/{SCHEDULED}/{visible(name)}": one.problem.strip().partition("\n")[0]
            for name, one in self.known.items()
            if one.problem
        }
        notes = {
            about: f"{about}: {why} (nothing is started by it until it is corrected)"
            for about, why in list(found.items())[:_SHOWN]
        }
        if len(found) > _SHOWN:
            about = f"jobs/{SCHEDULED}/: more"
            notes[about] = f"jobs/{SCHEDULED}/: {len(found) - _SHOWN} more specs are paused"
        if self.folder.too_many:
            about = f"jobs/{SCHEDULED}/: too many"
            notes[about] = (
                f"jobs/{SCHEDULED}/ holds more than {MOST} specs: only the first {MOST} by name "
                "start runs. Move the others out"
            )
        for about in self._noted - notes.keys():
            self.daemon.note(about, None)
        for about, what in notes.items():
            self.daemon.note(about, what)
        self._noted = set(notes)


def _brought_up_to_date(
    name: str, file: SpecFile, before: Schedule | None, now: datetime
) -> Schedule:
    """Give what is known of a spec after it was read.

    A new line, and one that was paused, counts from now on: no edit starts a run at once.
    """
    spec = file.spec
    if file.problem or spec is None or spec.schedule is None:
        if before is not None:
            return before.but(problem=file.problem)
        job = job_name(name.rpartition(".")[0])
        return Schedule(job=job, line="", done_until=now, problem=file.problem)
    if before is None or before.job != spec.name:
        return Schedule(job=spec.name, line=spec.schedule, done_until=now)
    if before.line == spec.schedule and before.problem is None:
        return before
    until = max(now, before.last.due) if before.last else now
    return before.but(line=spec.schedule, done_until=until, problem=None)
