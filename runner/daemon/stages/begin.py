"""Begin a stage: its plan and its run's record are written, then its process is started."""

from __future__ import annotations

import errno
import shutil
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from runner.clock import now
from runner.contract.batch import BatchPlan
from runner.contract.layout import StageFolder, new_token
from runner.contract.method_choice import method_in
from runner.contract.rates import RatesTried
from runner.contract.record import Attempt, CardUsed, RunRecord
from runner.contract.stage_io import write_message
from runner.contract.states import TRAINS, Stage
from runner.daemon.book import Live
from runner.daemon.change_run import change, keep_waiting
from runner.daemon.cluster.cluster import FarCard
from runner.daemon.cluster.far_runs import ticket_of
from runner.daemon.daemon import Daemon
from runner.daemon.leftovers import sweep_run
from runner.daemon.promotion.start_from import choose_start
from runner.daemon.stages import outcome
from runner.daemon.stages.adopt import adopt, drop_what_was_not_adopted
from runner.daemon.stages.ask_card import Together
from runner.daemon.stages.choose_plan import Ahead
from runner.daemon.stages.end import stage_ended
from runner.daemon.stages.host_memory import kernel_kills
from runner.daemon.stages.look_at_card import card_bytes, method_before_rows, no_fp8
from runner.daemon.stages.plans import STATE_DURING, make_plan, stage_folder, trial_home
from runner.daemon.stages.process import Child
from runner.daemon.stages.process_for import process_for
from runner.daemon.stages.rates import drop_checkpoints, size_rates
from runner.daemon.stages.resume_point import count_up_to, resume_point
from runner.daemon.stages.retry import NOT_PLACED, spares_host_memory
from runner.daemon.stages.same_run import same_run_notes
from runner.exit_codes import ExitCode
from runner.files.crash_points import reached
from runner.files.durable import sync_folder
from runner.spec.as_chosen import as_chosen

_FULL = (errno.ENOSPC, errno.EDQUOT)
_TICKET_REST_SECONDS = 60.0  # an attempt each: where the folder stays broken, there are not many


def begin(daemon: Daemon, live: Live, on: Together, far: FarCard | None = None) -> None:
    """Begin a run's next stage on the card that it was offered, or on several.

    Where the stage cannot be started, that is its end.

    Args:
        daemon: the daemon.
        live: the run.
        on: what was asked, and what was planned.
        far: the card of a further box, where it trains there.
    """
    which, ahead, chosen = live.next_stage, on.planned.ahead, on.planned.chosen
    record = live.record
    changes: dict[str, Any] = {
        "state": STATE_DURING[which],
        "waiting": None,
        "started_at": record.started_at or now(not_before=record.created_at),
    }
    if chosen is not None:
        changes["method"] = chosen
        daemon.say(live, f"{record.job}: trains {method_in(chosen)}")
    resume_from = None
    if which is Stage.TRAIN:
        assert ahead is not None
        found = resume_point(live.run, daemon.hashes.of)
        resume_from = found.checkpoint
        plan = ahead.plan
        start = choose_start(daemon.outputs, record, live.spec)
        first_notes = (start.note,) if start.note and not record.attempts else ()
        attempt = Attempt(
            number=len(record.attempts) + 1,
            token=new_token(),
            batch_plan=plan,
            started_at=now(not_before=record.created_at),
            first_step=found.step + 1,
            cards=_used(on, far),
            box=far.box if far else "",
            ranks=on.ranks.count,
            shard_base=on.ranks.shard_base,
        )
        changes |= {
            "attempts": (*count_up_to(record.attempts, found.step), attempt),
            "batch_plan": plan,
            "forecast": ahead.facts,
            "started_from": record.started_from or (None if record.attempts else start.run_id),
            "shortfalls": outcome.joined(
                record.shortfalls,
                (*first_notes, *found.notes, *same_run_notes(daemon.outputs, record)),
            ),
        }
        for note in found.notes:
            daemon.say(live, note, level="warning")
    else:
        tries = record.tries.get(which.value, 0) + 1
        changes["tries"] = {**record.tries, which.value: tries}
        if which is Stage.RATES:
            assert ahead is not None
            more, resume_from = _for_rates(daemon, live, ahead)
            changes |= more
        if which is Stage.PREPARE and live.spec.replay is not None:
            # Chosen before its rows are: another run may come into use before training starts.
            changes["started_from"] = choose_start(daemon.outputs, record, live.spec).run_id
    planned = record.but(**changes)
    plain_plan = ahead.plain_plan if ahead else None
    folder = _write_plan(daemon, live, which, planned, resume_from, on, plain_plan, far)
    reached("stage planned")
    change(daemon, live, **changes)
    reached("stage recorded")
    live.stage, live.cards, live.stage_began_at = which, on.cards, time.monotonic()
    if far is not None:
        _hand_over(daemon, live, far)
        return
    live.kernel_kills = kernel_kills()
    try:
        process = process_for(
            daemon,
            which,
            folder,
            on.cards,
            held=tuple(one.lease.descriptor for one in on.asked if one.lease),
            spare_host_memory=must_spare_memory(live.record, which),
        )
        live.child = Child(process, folder=folder, on_exit=daemon.wakeup.set)
    except OSError as error:
        daemon.say(live, f"{record.job}: {which} could not be started", reason=str(error))
        code = ExitCode.DISK_FULL if error.errno in _FULL else ExitCode.UNEXPECTED
        stage_ended(daemon, live, which, code, asked=False)
        return
    titles = ", ".join(card.title for card in on.cards)
    where = {"card": titles} if daemon.cards.are_several and which is not Stage.PREPARE else {}
    daemon.say(live, f"{live.record.job}: {which} started", pid=live.child.pid, **where)


def _used(on: Together, far: FarCard | None) -> tuple[CardUsed, ...]:
    """Give the cards as the record tells of them."""
    if far is not None:
        return (far.used,) if far.said.uuid else ()
    return tuple(used for card in on.cards if (used := card.used) is not None)


def _hand_over(daemon: Daemon, live: Live, far: FarCard) -> None:
    """Hand an attempt to the box that its record names."""
    assert daemon.cluster is not None
    live.cards = ()
    try:
        live.child = daemon.cluster.place(ticket_of(live.record))
    except OSError as error:
        daemon.say(live, f"{live.record.job}: the ticket could not be written", reason=str(error))
        if error.errno in _FULL:
            stage_ended(daemon, live, Stage.TRAIN, ExitCode.DISK_FULL, asked=False)
            return
        # Of that ticket alone, perhaps: other runs are placed meanwhile, and the next one of this
        # run has another name.
        live.pause = NOT_PLACED
        stage_ended(daemon, live, Stage.TRAIN, ExitCode.INTERRUPTED, asked=True)
        live.rests_until = time.monotonic() + _TICKET_REST_SECONDS
        again_at = now() + timedelta(seconds=_TICKET_REST_SECONDS)
        because = error.strerror or str(error)
        why = f"the ticket for box {far.box} could not be written ({because}): it is tried again"
        keep_waiting(daemon, live, why, again_at=again_at)
        return
    daemon.say(live, f"{live.record.job}: {Stage.TRAIN} placed", card=far.title)


def _for_rates(daemon: Daemon, live: Live, ahead: Ahead) -> tuple[dict[str, Any], str | None]:
    """Give what the start of a small run changes in the record, and where it goes on from."""
    record = live.record
    start = choose_start(daemon.outputs, record, live.spec)
    home = trial_home(live.run, record)
    # What a try has sealed that was cut off together with the daemon.
    adopt(home, StageFolder(stage_folder(live.run, Stage.RATES, record)), daemon.hashes.of)
    found = resume_point(home, daemon.hashes.of)
    rates = size_rates(record, live.spec, ahead.facts)
    if isinstance(rates, RatesTried) and (at := rates.next_trial) is not None:
        rates = rates.with_trial(at, token=new_token())
    notes = (*((start.note,) if start.note else ()), *found.notes)
    changes = {
        "rates": rates,
        "batch_plan": ahead.plan,
        "forecast": ahead.facts,
        "started_from": record.started_from or start.run_id,
        "shortfalls": outcome.joined(record.shortfalls, notes),
    }
    return changes, found.checkpoint


def must_spare_memory(record: RunRecord, which: Stage) -> bool:
    """Whether the machine's own memory ran out before, or may have."""
    if which is Stage.TRAIN:
        return spares_host_memory(record.attempts)
    return record.tries.get(which.value, 0) > 1 or record.falls is not None


def _write_plan(
    daemon: Daemon,
    live: Live,
    which: Stage,
    planned: RunRecord,
    resume_from: str | None,
    on: Together,
    plain_plan: BatchPlan | None,
    far: FarCard | None,
) -> Path:
    """Make the stage's folder; before the record says so, for the disk may be full."""
    sweep_run(live.run)
    drop_what_was_not_adopted(live.run, live.record)
    folder = stage_folder(live.run, which, planned)
    if folder.exists():  # a try that ended early, or was never recorded: none of it is trusted
        shutil.rmtree(folder)
    if which in TRAINS and planned.rates is not None:
        drop_checkpoints(live.run, planned)  # what a kill has left of them
    if which is Stage.RATES:
        shutil.rmtree(folder.parent, ignore_errors=True)  # an earlier try: none of it counts
    if which is Stage.PREPARE and live.run.data.exists():
        shutil.rmtree(live.run.data)
    folder.mkdir(parents=True)
    sync_folder(folder.parent)  # what it seals is durable only where it can be found again
    settings = daemon.settings
    card, seen = on.planned.card, on.planned.seen
    has_card = far.memory is not None if far is not None else card.guard.is_well
    if has_card:  # the card, and never the CPU in its place: that would take days
        settings = replace(settings, device="cuda")
    spec = as_chosen(live.asked, planned)
    if which is Stage.PREPARE and (known := method_before_rows(daemon, live)) is not None:
        spec = spec.with_method(known)
    plan = make_plan(
        which,
        settings=settings,
        run=live.run,
        record=planned,
        spec=spec,
        resume_from=resume_from,
        plain_plan=plain_plan,
        ranks=on.ranks,
        card_bytes=card_bytes(daemon, live.spec, seen) if which is Stage.PREPARE else None,
        no_fp8=no_fp8(card, seen) if which is Stage.PREPARE else None,
    )
    if far is not None:  # two boxes must not fill one folder at once
        plan = plan.model_copy(update={"base_cache": None})
    write_message(StageFolder(folder).plan, plan)
    return folder
