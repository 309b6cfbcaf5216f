"""A child has ended: its end is judged, written into the record, and followed up."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from runner.card.memory import GpuMemory
from runner.clock import now
from runner.contract.layout import StageFolder
from runner.contract.record import ErrorFacts
from runner.contract.stage_io import TrainResult
from runner.contract.states import TRAINS, Stage, State
from runner.daemon.book import Live
from runner.daemon.cards import Card
from runner.daemon.change_run import change, end_run, keep_waiting
from runner.daemon.cluster.far_child import FarChild
from runner.daemon.daemon import Daemon
from runner.daemon.gpu_guard import TRY_AGAIN_SECONDS
from runner.daemon.gpu_watch import WHENEVER
from runner.daemon.inbox.wait_for_data import named_files
from runner.daemon.promotion.at_end import judge_promotion, promote_waiting
from runner.daemon.stages import outcome
from runner.daemon.stages.adopt import adopt
from runner.daemon.stages.await_answers import awaiting_answers, rest_unread, unless_cancelled
from runner.daemon.stages.change_method import (
    SAID,
    drop_what_was_trained,
    in_4_bits,
    may_change,
)
from runner.daemon.stages.choose_plan import (
    learn,
    learn_too_large,
    look_ahead,
    ranks_of,
    why_not,
)
from runner.daemon.stages.falls import rests_until
from runner.daemon.stages.follow_plans import smaller_plan
from runner.daemon.stages.host_memory import Blame, blame, kernel_kills
from runner.daemon.stages.judge_attempt import AttemptEnd, attempt_changes, judge_attempt
from runner.daemon.stages.judge_stage import StageEnd, judge_stage, read_end
from runner.daemon.stages.plans import read_answer, stage_folder, training_home, trial_home
from runner.daemon.stages.process import Child
from runner.daemon.stages.rates import begin_rates, drop_checkpoints, judge_trial, read_trial
from runner.daemon.stages.resume_point import resume_point
from runner.daemon.stages.retry import Next
from runner.daemon.stages.worked import worked_seconds
from runner.errors import RunnerError
from runner.exit_codes import ExitCode
from runner.files.crash_points import reached
from runner.files.refresh import refresh


def reap(daemon: Daemon, at: float) -> None:
    """Take up every child that has ended; hurry those that were asked to."""
    for live in list(daemon.book.runs.values()):
        if live.rests_until > at or live.left_open:
            continue
        with daemon.isolating(live, at), awaiting_answers(daemon, live):
            if live.child is not None:
                _follow_child(daemon, live, live.child, at)
            elif live.cancel and not live.record.state.is_final:  # it could not be ended before
                end_run(daemon, live, State.CANCELLED, _why_cancelled(daemon, live))


def _why_cancelled(daemon: Daemon, live: Live) -> ErrorFacts:
    return outcome.cancelled(live.cancel, live.run, daemon.hashes.of)


def _follow_child(daemon: Daemon, live: Live, child: Child | FarChild, at: float) -> None:
    is_far = isinstance(child, FarChild)
    if daemon.stopping and not is_far:  # a further box trains on; without a head it ends by itself
        child.ask_to_stop(at=at, grace_seconds=daemon.settings.grace_seconds)
    if daemon.hurry and not is_far:
        child.kill()
    child.enforce(at)
    code = child.poll()
    if code is None:
        return
    assert live.stage is not None
    reached("stage ended", str(live.stage))
    if live.end_seen_at is None:
        daemon.say(live, f"{live.record.job}: {live.stage} ended", exit_code=code)
        live.end_seen_at = at
    meant = code if child.is_stopping or is_far else _meant(daemon, live, code)
    asked = child.is_stopping and not (live.hung and not daemon.stopping)
    if isinstance(child, FarChild) and child.ended_because and not live.cancel:
        live.pause, asked = child.ended_because, True
    if live.stage in TRAINS:
        home = training_home(live.run, live.stage, live.record)
        folder = stage_folder(live.run, live.stage, live.record)
        if is_far:
            with contextlib.suppress(FileNotFoundError):  # somebody has removed it
                refresh(folder, below=live.run.root)
        unless_cancelled(live, lambda: adopt(home, StageFolder(folder), daemon.hashes.of))
    if live.cancel:
        _why_cancelled(daemon, live)  # all that it needs is hashed before anything is changed
    stage_ended(daemon, live, live.stage, meant, asked=asked, status=code)


def _meant(daemon: Daemon, live: Live, code: int) -> int:
    """Say what a child's end means: the kernel's kill for want of memory has a code of its own."""
    if live.meant is not None:
        return live.meant
    others = [one for one in daemon.book.runs.values() if one is not live and one.child is not None]
    killed = [one for one in others if _was_killed(one)]
    counted = kernel_kills()
    found = blame(code, before=live.kernel_kills, after=counted, also_killed=len(killed))
    live.meant = ExitCode.OUT_OF_HOST_MEMORY if found is Blame.YES else code
    for one in others:  # no kill is counted against two of them
        if found is Blame.YES and one.kernel_kills is not None:
            one.kernel_kills += 1
        elif found is Blame.ONE_OF_SEVERAL:
            one.kernel_kills = counted
    for one in (live, *killed) if found is Blame.ONE_OF_SEVERAL else ():
        one.meant, one.doubt = -signal.SIGKILL, outcome.KILLED_WHO
        daemon.say(one, f"{one.record.job}: {one.stage} {one.doubt}", level="warning")
    return live.meant


def _was_killed(other: Live) -> bool:
    """Whether another run's child was ended by SIGKILL, nobody having asked it to stop."""
    child = other.child
    if child is None or child.is_stopping or other.meant is not None:
        return False
    return child.poll() == -signal.SIGKILL


def stage_ended(
    daemon: Daemon, live: Live, which: Stage, code: int, *, asked: bool, status: int | None = None
) -> None:
    """Close a stage; its child is forgotten only once the record says how it ended.

    ``code`` is what its end means; ``status``, where another, is how the child ended.
    """
    if which is Stage.TRAIN:
        attempt_ended(daemon, live, code, asked=asked, status=status)
    elif which is Stage.RATES:
        _trial_ended(daemon, live, code, asked=asked)
    else:
        _other_ended(daemon, live, which, code, asked=asked)


def attempt_ended(
    daemon: Daemon, live: Live, code: int, *, asked: bool, status: int | None = None
) -> None:
    """Close the newest attempt by its exit status and by what it left."""
    gpu = _memory_after(daemon, live, code)
    end = _read_attempt(daemon, live, code, asked=asked, status=status)
    verdict = judge_attempt(end)
    changes = attempt_changes(end, verdict)
    ended = Ended(code=end.code, asked=asked, then=verdict.then, error=verdict.error)
    if end.code == ExitCode.OK:
        changes |= _lesson(daemon, live, end)
    elif verdict.then is Next.FAIL:
        ended, changes = _another_way(daemon, live, ended, changes, gpu)
    _close(daemon, live, ended, changes)
    live.rests_after_fall_until = max(live.rests_after_fall_until, rests_until(live.record.falls))
    if verdict.reason and ended.then is not Next.GO_ON:
        event = f"{live.record.job}: attempt {verdict.attempt.number} ended"
        daemon.say(live, event, reason=verdict.reason)


def _another_way(
    daemon: Daemon, live: Live, ended: Ended, changes: dict[str, Any], gpu: GpuMemory | None
) -> tuple[Ended, dict[str, Any]]:
    """Go on where memory ran out at the smallest plan: once there is room, or in 4 bits."""
    error = ended.error
    after = live.record.but(**changes)
    if ended.code == ExitCode.OUT_OF_GPU_MEMORY:
        served = daemon.cards.served
        why = why_not(daemon.settings, live.run, after, live.spec, gpu, cards=served)
        if isinstance(why, str):  # another program took it: the next start waits for it
            return replace(ended, then=Next.SMALLER_PLAN), {**changes, "state": State.INTERRUPTED}
        error = why or error
    if may_change(live.record, ended.code) and not (ended.asked or live.cancel):
        drop_what_was_trained(live.run)
        if ended.code == ExitCode.OUT_OF_GPU_MEMORY:
            learn_too_large(daemon.settings, live.run, after, live.spec, gpu=gpu)
        daemon.say(live, f"{live.record.job}: {SAID}")
        return replace(ended, then=Next.SMALLER_PLAN), {**changes, **in_4_bits(after)}
    return replace(ended, error=error), changes


def _read_attempt(
    daemon: Daemon, live: Live, code: int, *, asked: bool, status: int | None
) -> AttemptEnd:
    """Put together what is known of an attempt's end."""
    folder = StageFolder(stage_folder(live.run, Stage.TRAIN, live.record))
    answer = unless_cancelled(live, lambda: read_answer(folder.result, TrainResult))
    result, error = answer or (None, None)
    if live.record.attempts[-1].fenced:
        result = error = None
    if code == ExitCode.OK and (result is None or result.best_checkpoint is None):
        code, result = ExitCode.UNEXPECTED, None
    return AttemptEnd(
        run=live.run,
        record=live.record,
        code=code,
        status=code if status is None else status,
        asked=asked,
        seconds=_worked(live),
        hung="" if asked else live.hung,
        pause=live.pause,
        doubt=live.doubt,
        result=result,
        error=error,
        smaller_plan=smaller_plan(folder),
        resumes=None
        if code == ExitCode.OK
        else unless_cancelled(live, lambda: resume_point(live.run, daemon.hashes.of)),
    )


def _worked(live: Live) -> float:
    if live.stage_began_at is not None:
        return time.monotonic() - live.stage_began_at
    # An earlier daemon's: it ended while nobody looked.
    attempt = live.record.attempts[-1]
    folder = live.run.attempt(attempt.number, attempt.token)
    return worked_seconds(folder, began=attempt.started_at, ended=now(), steps=0)


def _lesson(daemon: Daemon, live: Live, end: AttemptEnd) -> dict[str, Any]:
    """Keep what a finished attempt took beside what was forecast, for the forecasts to come."""
    record, result = live.record, end.result
    if result is None or result.peak_gpu_memory_bytes is None:
        return {}
    gpu = _far_memory(daemon, live)
    if gpu is None and not isinstance(live.child, FarChild):
        gpu = _card(daemon, live).watch.memory_at(time.monotonic(), since=WHENEVER)
    facts = record.forecast
    if end.batch_plan != end.attempt.batch_plan:  # made smaller: compare like with like
        in_force = record.but(batch_plan=end.batch_plan)
        ranks = ranks_of(record)
        facts = look_ahead(daemon.settings, live.run, in_force, live.spec, gpu, ranks).facts
    learn(daemon.settings, live.run, record, live.spec, result, gpu=gpu)
    return {"forecast": {**facts, "measured_gpu_memory_bytes": result.peak_gpu_memory_bytes}}


def _trial_ended(daemon: Daemon, live: Live, code: int, *, asked: bool) -> None:
    """Close the small run of a learning rate."""
    gpu = _memory_after(daemon, live, code)
    began = live.stage_began_at
    home = trial_home(live.run, live.record)
    folder = StageFolder(stage_folder(live.run, Stage.RATES, live.record))
    end = unless_cancelled(
        live,
        lambda: read_trial(
            live.run,
            home,
            live.record,
            code,
            asked=asked,
            seconds=0.0 if began is None else time.monotonic() - began,
            hung=live.hung,
            smaller_plan=smaller_plan(folder),
        ),
    )
    if end is None:
        why = _why_cancelled(daemon, live)
        _close(daemon, live, Ended(code=code, asked=True, then=Next.SAME_PLAN, error=why), {})
        return
    verdict = judge_trial(end)
    rates = verdict.changes["rates"]
    ended = Ended(code=verdict.code, asked=asked, then=verdict.then, error=verdict.error)
    changes = verdict.changes
    if verdict.then is Next.FAIL:
        ended, changes = _another_way(daemon, live, ended, changes, gpu)
    assert live.record.rates is not None
    if rates.steps != live.record.rates.steps:  # its rate fell over more steps than it had
        shutil.rmtree(home.checkpoints, ignore_errors=True)
    _close(daemon, live, ended, changes)
    drop_checkpoints(live.run, live.record)
    if rates.reason and verdict.then is Next.GO_ON:
        daemon.say(live, f"{live.record.job}: {rates.reason}")


def _other_ended(daemon: Daemon, live: Live, which: Stage, code: int, *, asked: bool) -> None:
    record = live.record
    if which is Stage.PREPARE and not live.cancel and (why := _not_its_fault(daemon, live, code)):
        before = record.tries.get(which.value, 1) - 1
        change(daemon, live, state=State.QUEUED, tries={**record.tries, which.value: before})
        _forget_child(live)
        keep_waiting(daemon, live, why)
        return
    folder = StageFolder(stage_folder(live.run, which, record))
    end = unless_cancelled(live, lambda: read_end(folder.result, which, record))
    found, error = end or (None, None)
    if which is Stage.PREPARE and found is not None:
        found |= begin_rates(live.spec, found)
    verdict = judge_stage(
        StageEnd(
            run=live.run,
            record=record,
            stage=which,
            code=code,
            asked=asked,
            hung="" if asked else live.hung,
            found=found if code == ExitCode.OK else None,
            error=error,
        )
    )
    if which is Stage.EVALUATE and verdict.then is Next.GO_ON and not live.cancel:
        _evaluated(daemon, live, verdict.changes)
        return
    if which is Stage.HAND_OVER and verdict.then is Next.GO_ON and not live.cancel:
        _succeeded(daemon, live, verdict.changes)
        return
    unasked = not asked and not live.cancel
    given_up = unasked and verdict.then in (Next.FAIL, Next.REJECT)
    if which is Stage.EVALUATE and given_up and verdict.error.kind != outcome.ADAPTER_DIFFERS:
        # The adapter is there, and as good as it is: only nothing is known of it.
        _evaluated(daemon, live, outcome.not_evaluated(record, verdict.error))
        return
    # A full disk does not hold up the queue for what can be made again at any time.
    full = unasked and verdict.code == ExitCode.DISK_FULL
    if which is Stage.HAND_OVER and (given_up or full):
        _succeeded(daemon, live, outcome.not_handed_over(record, verdict.error))
        return
    ended = Ended(code=verdict.code, asked=asked, then=verdict.then, error=verdict.error)
    _close(daemon, live, ended, verdict.changes)


def _evaluated(daemon: Daemon, live: Live, changes: dict[str, Any]) -> None:
    """Go on to what the spec's `export` asks for; where it asks for nothing, the run is over."""
    if not live.spec.export.asks:
        _succeeded(daemon, live, changes)
        return
    going_on = {"state": State.EXPORTING, "next_stage": Stage.HAND_OVER, "falls": None}
    change(daemon, live, **changes, **going_on)
    _forget_child(live)


def _succeeded(daemon: Daemon, live: Live, changes: dict[str, Any]) -> None:
    """End a run well: the record says what the gate decided before `current` moves."""
    after = live.record.but(**changes)
    promotion = judge_promotion(daemon.outputs, live.run, after, live.spec)
    end_run(daemon, live, State.SUCCEEDED, changes={**changes, "promotion": promotion})
    _forget_child(live)
    daemon.to_promote.append(live.record)
    promote_waiting(daemon)


def _not_its_fault(daemon: Daemon, live: Live, code: int) -> str | None:
    """Say why a prepare stage that has ended says nothing about the run: it is to begin again.

    A share that went away looks like missing data, and an upload that had stalled for longer than
    files take to settle like bad rows, or, cut between two rows, like good ones.
    """
    judged = (ExitCode.OK, ExitCode.BAD_INPUT, ExitCode.UNEXPECTED, ExitCode.UNREADABLE)
    if code not in judged:
        return None
    try:
        with daemon.open_inbox() as inbox:
            looks = daemon.data.looks(inbox, named_files(live.spec))
    except (OSError, RunnerError) as error:
        return None if code == ExitCode.OK else f"the inbox is unavailable ({error})"
    return None if looks == live.data_looks else "its data changed while it was copied"


def _card(daemon: Daemon, live: Live) -> Card:
    """Give the card that a run's stage saw; of several, one like that which it was planned for.

    Of a stage of an earlier daemon's as well.
    """
    name = live.record.forecast.get("gpu")
    alike = (card for card in live.cards or daemon.cards.all if card.name and card.name == name)
    return next(alike, live.cards[0] if live.cards else daemon.cards.first)


def _memory_after(daemon: Daemon, live: Live, code: int) -> GpuMemory | None:
    """Ask for the card's memory after a stage ran out of it; None: it did not, or has no card."""
    if code != ExitCode.OUT_OF_GPU_MEMORY:
        return None
    if isinstance(live.child, FarChild):
        return _far_memory(daemon, live)
    cards = live.cards or (_card(daemon, live),)
    seen = [card.watch.memory_at(time.monotonic(), since=live.end_seen_at) for card in cards]
    return min(filter(None, seen), key=lambda one: one.free_bytes, default=None)


def _far_memory(daemon: Daemon, live: Live) -> GpuMemory | None:
    """Give the card of a further box as that told of it; None: it trained here, or has none."""
    if not isinstance(live.child, FarChild) or daemon.cluster is None:
        return None
    return daemon.cluster.memory_of(live.child.ticket)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a stage ended, and what follows from that."""

    code: int
    asked: bool
    """It was asked to stop."""
    then: Next
    error: ErrorFacts


def _close(daemon: Daemon, live: Live, ended: Ended, changes: dict[str, Any]) -> None:
    """Write how a stage ended and what that means for its run, in one step."""
    cards, child = live.cards or (_card(daemon, live),), live.child
    if live.cancel:
        end_run(daemon, live, State.CANCELLED, _why_cancelled(daemon, live), changes=changes)
    elif not ended.asked and ended.then in (Next.REJECT, Next.FAIL):
        state = State.REJECTED if ended.then is Next.REJECT else State.FAILED
        end_run(daemon, live, state, ended.error, changes=changes)
    else:
        change(daemon, live, **changes)
    _forget_child(live)
    if isinstance(child, FarChild) and daemon.cluster is not None:
        daemon.cluster.close(child)
    if ended.asked or ended.then is not Next.REST:
        live.unread_in_a_row = 0
    if ended.asked or live.record.state.is_final:
        return
    if ended.then is Next.HOLD:
        _hold(daemon, live, ended, cards, child)
    elif ended.then is Next.REST:
        rest_unread(daemon, live, ended.error)


def _hold(
    daemon: Daemon,
    live: Live,
    ended: Ended,
    cards: Sequence[Card],
    child: Child | FarChild | None,
) -> None:
    at, why, again_at = time.monotonic(), ended.error.message, None
    if ended.code == ExitCode.GPU_LOST and isinstance(child, FarChild):
        assert daemon.cluster is not None
        daemon.cluster.give_rest(child.ticket.box, "a training lost its card", at)
        return  # another card takes it
    if ended.code == ExitCode.GPU_LOST and len(cards) > 1:
        for card in cards:  # which of them it was the driver says, before anything starts there
            card.guard.ask_anew()
        live.trained_again_at = at + TRY_AGAIN_SECONDS
        again_at = now() + timedelta(seconds=TRY_AGAIN_SECONDS)
    elif ended.code == ExitCode.GPU_LOST:
        cards[0].guard.stage_lost_it(why, at)
        why = cards[0].problem
    else:
        daemon.hold = (at + daemon.settings.hold_seconds, why)
    keep_waiting(daemon, live, why, again_at=again_at)


def _forget_child(live: Live) -> None:
    live.child = live.stage = live.stage_began_at = live.end_seen_at = None
    live.cards = ()
    live.pause, live.hung, live.doubt, live.meant = "", "", "", None
