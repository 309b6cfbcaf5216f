"""Turns the inbox, the requests and the children's ends into runs: the one loop of the daemon.

It alone knows the whole order and it alone writes run.json: the record first, then the view of it
under the inbox. Decisions are made by the pure functions of the neighbouring files.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from runner.contract.batch import describe_change, smaller
from runner.contract.beneath import Folder
from runner.contract.checkpoints import newest_verified
from runner.contract.durable import write_json
from runner.contract.errors import BusyError, RunnerError
from runner.contract.exit_codes import ExitCode
from runner.contract.layout import (
    STATE_FOLDERS,
    RunFolder,
    StageFolder,
    new_run_id,
    run_id_of,
)
from runner.contract.read_spec import read_spec
from runner.contract.record import Attempt, ErrorFacts, RunRecord, Waiting, now, write_record
from runner.contract.spec import JobSpec
from runner.contract.spec_names import is_spec_name, naming_problem
from runner.contract.stage_io import (
    EvaluateResult,
    ExportResult,
    PrepareResult,
    TrainResult,
    write_message,
)
from runner.contract.states import Stage, State
from runner.daemon import answer, claim, outcome, stage, view
from runner.daemon.data_ready import DataWatch, named_files
from runner.daemon.lock import Lock
from runner.daemon.log import Log
from runner.daemon.plans import (
    STATE_DURING,
    first_plan,
    make_plan,
    next_stage,
    read_answer,
    stage_folder,
)
from runner.daemon.process import Child
from runner.daemon.progress import read_progress
from runner.daemon.queue import in_order
from runner.daemon.recover import recover, step_of, unfinished
from runner.daemon.requests import read_requests
from runner.daemon.retry import ASKED, Next, after_attempt, after_stage, rule_for
from runner.daemon.settings import Settings
from runner.daemon.settle import Look, Seen, is_settled, look_again
from runner.daemon.wakeup import Wakeup
from runner.daemon.watch import watch

_BUSY_WAIT_SECONDS = 1.0  # the longest wait while a child runs
_ANSWER_SECONDS = 5.0  # progress in answers is renewed so often
_HEARTBEAT_SECONDS = 10.0
_SCANS_APART_SECONDS = 1.0  # an absence must hold in two scans at least so far apart
_ENDED_SHOWN = 10  # runs in STATUS.txt that have ended


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
    absent_since: float | None = None
    """Monotonic time of the first scan in a row that did not find the spec."""
    answered: tuple[str, str] = ("", "")
    """State folder and text of the newest answer."""


class Conductor:
    """The daemon's loop and all it remembers; everything that matters is on disk as well."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.outputs = settings.outputs
        self.wakeup = Wakeup()
        self.log = Log(self.outputs.daemon_log)
        self.runs: dict[str, Live] = {}
        self.ended: list[RunRecord] = []
        self.damaged: list[str] = []
        self.all_succeeded = True
        self.stopping = False
        self._known_ids: set[str] = set()
        self._sequence = 0
        self._specs: dict[str, Seen] = {}
        self._not_specs: dict[str, Look] = {}
        self._unclaimable: set[str] = set()
        self._data = DataWatch(settle_seconds=settings.settle_seconds)
        self._hold: tuple[float, str] | None = None
        self._problem = ""
        self._status_text = ""
        self._answers_at = 0.0
        self._heartbeat_at = 0.0
        self._next_look = 0.0

    # --- the loop ---------------------------------------------------------------------------

    def start(self) -> None:
        """Take up what an earlier daemon left."""
        found = recover(self.outputs)
        for note in found.notes:
            self.log.say(note, level="warning")
        self._sequence = found.highest_sequence
        self.damaged = found.damaged
        self.ended = found.ended[-_ENDED_SHOWN:]
        self._known_ids = {
            *found.damaged,
            *(record.run_id for record in found.ended),
            *(record.run_id for _, record in found.live),
        }
        for run, record in found.live:
            try:
                spec = read_spec(run.spec.read_bytes(), file_name=record.file_name)
            except (OSError, RunnerError) as error:
                self.damaged.append(run.run_id)
                self.log.say("spec of a run cannot be read", run=run.run_id, reason=str(error))
                continue
            self.runs[run.run_id] = Live(run=run, record=record, spec=spec)
        if not self.settings.inbox.marker.exists():
            return  # the look at the inbox says so
        with self._inbox_access() as inbox:
            where = view.scan_view(inbox)
            for record in found.ended:
                place = where.get(record.run_id)
                if place is not None and place[0] in ("queued", "running"):
                    run = self.outputs.run(record.job, record.run_id)
                    view.show(inbox, record, run, place)
                    view.write_answer(inbox, record, answer.answer(record))

    def work(self) -> int:
        """Go round until asked to leave, or, with ``once``, until all is done."""
        while True:
            at = time.monotonic()
            self._reap(at)
            if not self.stopping:
                self._carry_out_requests()
            self._look_at_inbox(at)
            if not self.stopping:
                self._start_what_can(at)
            self._beat(at)
            busy = any(live.child for live in self.runs.values())
            if self.stopping and not busy:
                return 0 if self.all_succeeded and not (self.settings.once and self.runs) else 1
            if self.settings.once and not busy and not self._specs:
                if not self.runs:
                    return 0 if self.all_succeeded else 1
                if self._hold is not None or self._problem:
                    return 1  # the box, not the runs: they go on at the next start
            self.wakeup.wait(self._wait_seconds(at, busy=busy))

    def _wait_seconds(self, at: float, *, busy: bool) -> float:
        settle = self.settings.settle_seconds
        waits = [self.settings.rescan_seconds, *([_BUSY_WAIT_SECONDS] if busy else [])]
        waits += [
            max(0.01, settle - seen.unchanged_seconds(at))
            for seen in self._specs.values()
            if seen.unchanged_seconds(at) < settle
        ]
        if any(live.record.waiting for live in self.runs.values()):
            waits.append(max(0.05, settle / 2))
        if self._next_look:
            waits.append(max(0.0, self._next_look - at))
        return min(waits)

    def ask_to_stop(self, *_signal: object) -> None:
        """Leave: children are asked to stop, and are waited for."""
        self.stopping = True
        self.wakeup.set()

    # --- records ----------------------------------------------------------------------------

    def _set(self, live: Live, **changes: Any) -> None:
        """Change a run's record, on disk first."""
        before = live.record.state
        record = live.record.but(**changes)
        if record == live.record:
            return
        write_record(live.run.record, record)
        live.record = record
        self._next_look = time.monotonic()
        if record.state != before:
            self._say(live, f"{record.job}: {record.state}", state=record.state.value)

    def _say(self, live: Live, event: str, *, level: str = "info", **facts: Any) -> None:
        self.log.say(event, level=level, run_log=live.run.log, run=live.record.run_id, **facts)

    def _wait(self, live: Live, reason: str) -> None:
        if live.record.waiting is None or live.record.waiting.reason != reason:
            self._say(live, f"{live.record.job}: {reason}")
            self._set(live, waiting=Waiting(reason=reason, since=now()))

    def _end(self, live: Live, state: State, error: ErrorFacts | None = None) -> None:
        if state is not State.SUCCEEDED:
            self.all_succeeded = False
        self._data.forget(named_files(live.spec))
        self._set(live, state=state, ended_at=now(), waiting=None, error=error)

    # --- the inbox --------------------------------------------------------------------------

    @contextmanager
    def _inbox_access(self) -> Iterator[Folder]:
        with Folder.open(self.settings.jobs_dir) as inbox:
            yield inbox

    def _look_at_inbox(self, at: float) -> None:
        self._next_look = 0.0
        try:
            with self._inbox_access() as inbox:
                marker = inbox.open_file(self.settings.inbox.marker.name)
                os.close(marker)
                for name in STATE_FOLDERS:
                    inbox.make_folder(name, mode=0o770)
                if not self.stopping:
                    self._claim_settled(inbox, at)
                self._follow_view(inbox, at)
                self._write_answers(inbox, at)
            self._inbox_problem("")
        except (OSError, RunnerError) as error:
            # Nothing is concluded from an inbox that cannot be read: no run is cancelled by it.
            for live in self.runs.values():
                live.absent_since = None
            self._inbox_problem(f"the inbox is unavailable ({error})")

    def _inbox_problem(self, problem: str) -> None:
        if problem != self._problem:
            self.log.say(problem or "the inbox is there again", level="warning")
            self._problem = problem

    def _claim_settled(self, inbox: Folder, at: float) -> None:
        seen: dict[str, Seen] = {}
        settled: list[tuple[int, str]] = []
        for entry in inbox.scan():
            problem = naming_problem(entry.name)
            if not is_spec_name(entry.name) and problem is None:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if entry.is_dir(follow_symlinks=False):
                continue
            if self._not_specs.get(entry.name) == Look.of(status):
                continue
            known = look_again(self._specs.get(entry.name), Look.of(status), at)
            unchanged = known.unchanged_seconds(at)
            settled_now = is_settled(known, at=at, settle_seconds=self.settings.settle_seconds)
            if settled_now or unchanged >= self._patience:  # the latter: empty for good
                settled.append((status.st_mtime_ns, entry.name))
            seen[entry.name] = known
        self._specs = seen
        for _, name in sorted(settled):
            self._take(inbox, name, at)

    @property
    def _patience(self) -> float:
        s = self.settings
        return s.settle_seconds if s.once else max(s.settle_seconds, s.broken_spec_seconds)

    def _take(self, inbox: Folder, name: str, at: float) -> None:
        run_id = self._new_id()
        try:
            problem = naming_problem(name)
            if problem is not None:
                self._refused(claim.refuse_name(inbox, name, problem, run_id=run_id))
                self._specs.pop(name, None)
                return
            if name.lower().endswith(".json") and not claim.is_json_spec(inbox, name):
                self._not_specs[name] = self._specs.pop(name).look
                return
            error = claim.peek(inbox, name)
            unchanged = self._specs[name].unchanged_seconds(at)
            if error is not None and error.may_be_incomplete and unchanged < self._patience:
                return
            taken = claim.claim(
                inbox, self.outputs, name, run_id=run_id, sequence=self._sequence + 1
            )
        except FileNotFoundError:
            self._specs.pop(name, None)
            return
        except OSError as error:  # one file that cannot be moved must not hold up the others
            reason = f"{answer.shown(name)} cannot be claimed: {error.strerror}"
            if reason not in self._unclaimable:
                self._unclaimable.add(reason)
                self.all_succeeded = False
                self.log.say(reason, level="warning")
            if self.settings.once:
                self._specs.pop(name, None)
            return
        self._specs.pop(name, None)
        self._enter(taken)

    def _new_id(self) -> str:
        while (run_id := new_run_id()) in self._known_ids:
            pass
        self._known_ids.add(run_id)
        return run_id

    def _enter(self, taken: claim.Claimed | claim.Refused) -> None:
        if isinstance(taken, claim.Refused):
            self._refused(taken)
            return
        self._sequence = taken.record.sequence
        live = Live(run=taken.run, record=taken.record, spec=taken.spec)
        self.runs[taken.record.run_id] = live
        self._say(live, f"{taken.record.job}: claimed", file=taken.record.file_name)

    def _refused(self, refused: claim.Refused) -> None:
        self.all_succeeded = False
        self.log.say(
            f"{answer.shown(refused.file_name)}: rejected",
            level="warning",
            reason=answer.shown(refused.message),
        )

    def _follow_view(self, inbox: Folder, at: float) -> None:
        """Adopt, heal, and notice specs that were deleted."""
        where = view.scan_view(inbox)
        for run_id, (state_folder, name) in where.items():
            orphan = state_folder == "queued" and run_id_of(name) == run_id
            if orphan and run_id not in self._known_ids and not self.stopping:
                self._known_ids.add(run_id)
                self._enter(
                    claim.adopt(
                        inbox,
                        self.outputs,
                        name,
                        file_name=claim.dropped_name(name),
                        run_id=run_id,
                        sequence=self._sequence + 1,
                    )
                )
        for run_id, live in list(self.runs.items()):
            place = where.get(run_id)
            if live.record.state.is_final or place is not None:
                live.absent_since = None
                view.show(inbox, live.record, live.run, place)
            elif live.cancel:
                continue
            elif live.absent_since is None:
                live.absent_since = at
                self._next_look = at + _SCANS_APART_SECONDS
            elif at - live.absent_since >= _SCANS_APART_SECONDS:
                self._cancel(live, "its spec was deleted from the inbox")

    def _cancel(self, live: Live, reason: str) -> None:
        if live.cancel or live.record.state.is_final:
            return
        live.cancel = reason
        self._say(live, f"{live.record.job}: to be cancelled", reason=reason)
        if live.child is not None:
            live.child.ask_to_stop(at=time.monotonic(), grace_seconds=self.settings.grace_seconds)
        else:
            self._end(live, State.CANCELLED, outcome.cancelled(reason))

    def _write_answers(self, inbox: Folder, at: float) -> None:
        renew = at - self._answers_at >= _ANSWER_SECONDS
        if renew:
            self._answers_at = at
        ordered = in_order(live.record for live in self.runs.values())
        place = 0
        for record in ordered:
            live = self.runs[record.run_id]
            place += record.state is State.QUEUED
            key = live.answered[0]
            if not renew and key == f"{record.state}{record.waiting}":
                continue
            progress = None
            if record.state is State.TRAINING and record.attempts:
                folder = StageFolder(stage_folder(live.run, Stage.TRAIN, record))
                progress = read_progress(folder.metrics)
            text = answer.answer(record, place=place, progress=progress)
            if text != live.answered[1]:
                view.write_answer(inbox, record, text)
            live.answered = (f"{record.state}{record.waiting}", text)
            if record.state.is_final:
                del self.runs[record.run_id]
                self.ended = [*self.ended, record][-_ENDED_SHOWN:]
        text = answer.status(
            needs_person=self._needs_person(),
            live=in_order(live.record for live in self.runs.values()),
            ended=list(reversed(self.ended)),
        )
        if text != self._status_text:
            inbox.write_text(self.settings.inbox.status.name, text)
            self._status_text = text

    def _needs_person(self) -> list[str]:
        lines = []
        if self._hold is not None:
            lines.append(f"The queue is held: {self._hold[1]}.")
        lines += sorted(self._unclaimable)
        lines += [f"The record of {run_id} cannot be read." for run_id in self.damaged]
        lines += [
            f"{record.job} ({record.run_id}) {record.state}: "
            + (record.error.message.splitlines()[0] if record.error else "see its answer")
            for record in reversed(self.ended)
            if record.state in (State.FAILED, State.REJECTED)
        ]
        return lines

    # --- requests ---------------------------------------------------------------------------

    def _carry_out_requests(self) -> None:
        for request in read_requests(self.outputs):
            live = self.runs.get(str(request.args.get("run_id")))
            if request.verb == "cancel" and live is not None:
                self._cancel(live, "a command asked for it")
            else:
                self.log.say("a request cannot be carried out", verb=request.verb, **request.args)
            request.done()

    # --- starting stages --------------------------------------------------------------------

    def _start_what_can(self, at: float) -> None:
        if self._hold is not None and at >= self._hold[0]:
            self._hold = None
        waiting = [
            live
            for record in in_order(live.record for live in self.runs.values())
            if (live := self.runs[record.run_id]).child is None and not record.state.is_final
        ]
        blocked = self._box_problem()
        running = [live.stage for live in self.runs.values() if live.child is not None]
        prepared = [live for live in waiting if next_stage(live.record) is not Stage.PREPARE]
        if prepared and all(stage_now is Stage.PREPARE for stage_now in running):
            self._start_or_wait(prepared[0], blocked)
        if Stage.PREPARE in running or len(prepared) > (not running):
            return
        for live in waiting:
            if next_stage(live.record) is Stage.PREPARE and self._prepare(live, blocked):
                return

    def _prepare(self, live: Live, blocked: str | None) -> bool:
        """Start a run's prepare stage; False when it waits for data and another may go first."""
        if self._problem:
            return self._start_or_wait(live, self._problem)
        with self._inbox_access() as inbox:
            waits = self._data.waiting_for(inbox, named_files(live.spec), time.monotonic())
        if waits is None:
            return self._start_or_wait(live, blocked)
        reason, missing = waits
        self._wait(live, reason)
        assert live.record.waiting is not None
        patience = 0.0 if self.settings.once else self.settings.data_wait_seconds
        if missing and (now() - live.record.waiting.since).total_seconds() >= patience:
            self._end(
                live,
                State.REJECTED,
                ErrorFacts(
                    kind="bad_data",
                    message=f"The data never came: {reason}.",
                    advice="Put the file where the spec says (relative to the inbox).",
                ),
            )
        return False

    def _box_problem(self) -> str | None:
        if self._hold is not None:
            return self._hold[1]
        try:
            free = shutil.disk_usage(self.settings.outputs_dir).free
        except OSError as error:
            return f"the outputs folder cannot be used ({error.strerror})"
        if free < self.settings.min_free_bytes:
            need = self.settings.min_free_bytes / 1024**3
            return f"the disk is nearly full ({free / 1024**3:.1f} GiB free, {need:.1f} needed)"
        return None

    def _start_or_wait(self, live: Live, blocked: str | None) -> bool:
        """Start the run's next stage, or record why it waits; True: it was its turn."""
        lease = None
        if blocked is None and next_stage(live.record) in (Stage.TRAIN, Stage.EVALUATE):
            try:
                lease = Lock.take(
                    self.outputs.gpu_lease, what="the GPU", holder=f"run {live.record.run_id}"
                )
            except BusyError as error:
                blocked = error.message
        if blocked is not None:
            self._wait(live, blocked)
            return True
        try:
            self._start(live, lease)
        finally:
            if lease is not None:
                lease.release()  # the child has inherited it and holds it as long as it lives
        return True

    def _start(self, live: Live, lease: Lock | None) -> None:
        which = next_stage(live.record)
        record = live.record
        changes: dict[str, Any] = {
            "state": STATE_DURING[which],
            "waiting": None,
            "started_at": record.started_at or now(),
        }
        resume_from = None
        if which is Stage.TRAIN:
            resume_from = newest_verified(live.run.root)
            plan = record.batch_plan or first_plan(live.spec)
            attempt = Attempt(
                number=len(record.attempts) + 1,
                batch_plan=plan,
                started_at=now(),
                first_step=step_of(resume_from) + 1,
            )
            changes |= {"attempts": (*record.attempts, attempt), "batch_plan": plan}
        else:
            tries = record.tries.get(which.value, 0) + 1
            changes["tries"] = {**record.tries, which.value: tries}
        self._set(live, **changes)
        folder = stage_folder(live.run, which, live.record)
        if folder.exists():  # a try that ended early: none of it is trusted
            shutil.rmtree(folder)
        if which is Stage.PREPARE and live.run.data.exists():
            shutil.rmtree(live.run.data)
        folder.mkdir(parents=True)
        write_message(
            StageFolder(folder).plan,
            make_plan(
                which,
                settings=self.settings,
                run=live.run,
                record=live.record,
                spec=live.spec,
                resume_from=resume_from,
            ),
        )
        live.stage = which
        live.child = Child(
            stage.command(self.settings.stage_command, which, folder.resolve()),
            environment=stage.environment(os.environ, home=self.outputs.cache.resolve()),
            folder=folder,
            log=StageFolder(folder).log(which.value),
            on_exit=self.wakeup.set,
            inherited=(lease.descriptor,) if lease else (),
        )
        self._say(live, f"{live.record.job}: {which} started", pid=live.child.pid)

    # --- ends of stages ---------------------------------------------------------------------

    def _reap(self, at: float) -> None:
        for live in list(self.runs.values()):
            if live.child is None:
                continue
            if self.stopping:
                live.child.ask_to_stop(at=at, grace_seconds=self.settings.grace_seconds)
            live.child.enforce(at)
            code = live.child.poll()
            if code is not None:
                asked = live.child.is_stopping
                which = live.stage
                live.child = live.stage = None
                assert which is not None
                self._say(live, f"{live.record.job}: {which} ended", exit_code=code)
                if which is Stage.TRAIN:
                    self._attempt_ended(live, code, asked=asked)
                else:
                    self._stage_ended(live, which, code, asked=asked)

    def _attempt_ended(self, live: Live, code: int, *, asked: bool) -> None:
        record = live.record
        attempt = record.attempts[-1]
        folder = StageFolder(stage_folder(live.run, Stage.TRAIN, record))
        result, error = read_answer(folder.result, TrainResult)
        if code == ExitCode.OK and (result is None or result.best_checkpoint is None):
            code, result = ExitCode.UNEXPECTED, None
        durable = (
            result.last_step
            if code == ExitCode.OK and result is not None
            else step_of(newest_verified(live.run.root))
        )
        plan = result.batch_plan if result is not None else attempt.batch_plan
        smaller_plan = smaller(plan) if code == ExitCode.OUT_OF_GPU_MEMORY else None
        reason = error.message if error else outcome.how(code)
        if asked and code != ExitCode.OK:
            reason = ASKED
        elif smaller_plan is not None:
            reason = describe_change(plan, smaller_plan)
        closed = attempt.model_copy(
            update={
                "ended_at": now(),
                "outcome": "interrupted" if reason == ASKED else rule_for(code).outcome,
                "exit_code": code,
                "last_step": durable,
                "peak_gpu_memory_bytes": result.peak_gpu_memory_bytes if result else None,
                "reason": None if code == ExitCode.OK else reason,
            }
        )
        changes: dict[str, Any] = {
            "attempts": (*record.attempts[:-1], closed),
            "batch_plan": smaller_plan or plan,
        }
        if result is not None:
            changes |= {
                "environment": {**record.environment, **result.environment},
                "shortfalls": outcome.joined(record.shortfalls, result.shortfalls),
                "metrics": {
                    **record.metrics,
                    **result.metrics,
                    "best_checkpoint": result.best_checkpoint,
                    "best_eval_loss": result.best_eval_loss,
                },
            }
        then = after_attempt(
            code, attempts=changes["attempts"], smaller_exists=smaller_plan is not None
        )
        if then is Next.GO_ON:
            changes["state"] = State.EXPORTING
        elif asked or then in (Next.SAME_PLAN, Next.SMALLER_PLAN, Next.HOLD):
            changes["state"] = State.INTERRUPTED
        self._set(live, **changes)
        if reason and then is not Next.GO_ON:
            self._say(live, f"{record.job}: attempt {attempt.number} ended", reason=reason)
        self._go_on(
            live, then, error or outcome.facts(Stage.TRAIN, code, live.run, record), asked=asked
        )

    def _stage_ended(self, live: Live, which: Stage, code: int, *, asked: bool) -> None:
        record = live.record
        path = StageFolder(stage_folder(live.run, which, record)).result
        changes: dict[str, Any] = {}
        error: ErrorFacts | None
        if which is Stage.PREPARE:
            prepared, error = read_answer(path, PrepareResult)
            if code == ExitCode.OK and prepared is not None and prepared.total_steps > 0:
                changes = outcome.prepared(record, prepared)
        elif which is Stage.EXPORT:
            exported, error = read_answer(path, ExportResult)
            if code == ExitCode.OK and exported is not None:
                changes = {
                    "state": State.EVALUATING,
                    "metrics": {**record.metrics, "adapter_files": exported.files},
                }
        else:
            evaluated, error = read_answer(path, EvaluateResult)
            if code == ExitCode.OK and evaluated is not None:
                changes = {
                    "shortfalls": outcome.joined(record.shortfalls, evaluated.shortfalls),
                    "metrics": {
                        **record.metrics,
                        "eval_loss_before": evaluated.eval_loss_before,
                        "eval_loss_after": evaluated.eval_loss_after,
                        "eval_tokens": evaluated.eval_tokens,
                    },
                }
        if code == ExitCode.OK and not changes:
            code = ExitCode.UNEXPECTED  # it said ok and left nothing to go on with
        if not changes:
            # The record tells that no child works on it: a prepare starts over, others go on.
            changes["state"] = State.QUEUED if which is Stage.PREPARE else State.INTERRUPTED
            if asked:
                tries = record.tries.get(which.value, 1) - 1
                changes["tries"] = {**record.tries, which.value: tries}
        then = after_stage(which, code, tries=record.tries.get(which.value, 1))
        self._set(live, **changes)
        if which is Stage.EVALUATE and then is Next.GO_ON and not live.cancel:
            self._end(live, State.SUCCEEDED)
            return
        self._go_on(live, then, error or outcome.facts(which, code, live.run, record), asked=asked)

    def _go_on(self, live: Live, then: Next, error: ErrorFacts, *, asked: bool) -> None:
        if live.cancel:
            self._end(live, State.CANCELLED, outcome.cancelled(live.cancel))
        elif asked:
            return  # the daemon leaves; the record says interrupted, or ready for the next stage
        elif then is Next.REJECT:
            self._end(live, State.REJECTED, error)
        elif then is Next.FAIL:
            self._end(live, State.FAILED, error)
        elif then is Next.HOLD:
            self._hold = (time.monotonic() + self.settings.hold_seconds, error.message)
            self._wait(live, error.message)

    # --- sign of life -----------------------------------------------------------------------

    def _beat(self, at: float) -> None:
        if at - self._heartbeat_at < _HEARTBEAT_SECONDS and self._heartbeat_at:
            return
        self._heartbeat_at = at
        running = [live.record.run_id for live in self.runs.values() if live.child]
        try:
            write_json(
                self.outputs.heartbeat,
                {
                    "time": now().isoformat(),
                    "pid": os.getpid(),
                    "running": running,
                    "waiting": len(self.runs) - len(running),
                    "inbox": self._problem or "available",
                    "held": self._hold[1] if self._hold else None,
                },
            )
        except OSError as error:
            self.log.say("the heartbeat could not be written", level="warning", reason=str(error))


def _open_inbox(settings: Settings) -> Lock | None:
    """Make the inbox's folders and take its marker as a lock; None when it is not really there.

    An empty folder in which runs that are not finished should show is a share that is not mounted:
    a marker written there would prove the wrong thing, and the runs would be taken for cancelled.
    """
    settings.jobs_dir.mkdir(parents=True, exist_ok=True)
    with Folder.open(settings.jobs_dir) as inbox:
        if not settings.inbox.marker.exists() and unfinished(settings.outputs):
            try:
                where = view.scan_view(inbox)
            except FileNotFoundError:
                where = {}
            if not where:
                return None
        for name in STATE_FOLDERS:
            inbox.make_folder(name, mode=0o770)
    return Lock.take(settings.inbox.marker, what=f"The inbox {settings.jobs_dir}")


def run_daemon(settings: Settings) -> int:
    """Run the daemon until it is asked to stop, or with ``once`` until all is done.

    Raises:
        BusyError: another daemon has the outputs folder or the inbox.
    """
    outputs = settings.outputs
    for folder in (outputs.private, outputs.requests, outputs.cache):
        folder.mkdir(parents=True, exist_ok=True)
    locks = [Lock.take(outputs.lock, what=f"The outputs folder {settings.outputs_dir}")]
    observer = None
    try:
        inbox_lock = _open_inbox(settings)
        if inbox_lock is not None:
            locks.append(inbox_lock)
        conductor = Conductor(settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, conductor.ask_to_stop)
        observer = watch(settings.jobs_dir, polling=settings.polling, wake=conductor.wakeup.set)
        conductor.log.say("watching", inbox=str(settings.jobs_dir), pid=os.getpid())
        conductor.start()
        return conductor.work()
    finally:
        if observer is not None:
            observer.stop()
            observer.join(timeout=5.0)
        for lock in locks:
            lock.release()
