"""A stage again: evaluate or export of a run that has succeeded, alone, when somebody asks for it.

The run stays what it is while that goes on, and where it fails: what was there before stands until
a whole new result takes its place. The request stays as well, so that a power cut only begins it
anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.contract.layout import StageFolder
from runner.contract.record import read_record
from runner.contract.stage_io import write_message
from runner.contract.states import Stage, State
from runner.contract.unread import unread
from runner.daemon.book import Live
from runner.daemon.cards import Card
from runner.daemon.daemon import Daemon
from runner.daemon.leftovers import sweep_run
from runner.daemon.stages.falls import is_suspect
from runner.daemon.stages.plans import make_plan
from runner.daemon.stages.process import Child
from runner.daemon.stages.process_for import process_for
from runner.errors import BusyError, RunnerError, UnreadableError
from runner.files.unreadable import require_storage
from runner.spec.read_spec import read_spec


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked for, and what follows."""

    request: str
    """Name of the request's file."""
    run_id: str
    stage: Stage
    folder: str
    """Within the run's folder: where the stage works; what lies there goes."""
    doing: str
    """For the log: ``is evaluated again``."""
    changes: dict[str, Any]
    """Of the plan."""
    conclude: Callable[[Daemon, Again, int], None]
    """Writes what came of it into the record, by the child's exit status."""


@dataclass(kw_only=True)
class Again:
    """A run with one of its stages at work again."""

    asked: Asked
    live: Live
    child: Child
    folder: Path
    is_over: bool = False
    found: Any = None
    """What it left; kept, for writing the record of it may take more than one try."""


def carry_out_again(daemon: Daemon, asked: Asked) -> bool | None:
    """Begin it, or see whether it is over: True; False: not yet; None: it cannot be done."""
    again = daemon.again
    if again is not None:
        if again.asked.request != asked.request or not again.is_over:
            return False
        daemon.again = None
        return True
    if asked.run_id in daemon.book.runs:
        # Its evaluation is still to come; what `runner export` asks for is not in its spec.
        return asked.stage is Stage.EVALUATE
    try:
        found = _find(daemon, asked.run_id, needs_rows=asked.stage is Stage.EVALUATE)
    except UnreadableError as error:
        why = unread(error, outputs=daemon.settings.outputs_dir).message
        daemon.note(asked.request, f"{why}: the run, which {asked.doing} as asked, waits for that")
        return False
    daemon.note(asked.request, None)
    if found is None:
        return None
    for card in _free_cards(daemon):
        if _begin(daemon, asked, found, card):
            break
    return False


def _find(daemon: Daemon, run_id: str, *, needs_rows: bool) -> Live | None:
    """Read a run that has ended; None: there is none with an adapter, and its rows if needed.

    Raises:
        UnreadableError: it cannot be read now.
    """
    for job, known in daemon.outputs.run_names():
        if known != run_id:
            continue
        run = daemon.outputs.run(job, run_id)
        try:
            record = read_record(run.record)
            spec = read_spec(run.spec.read_bytes(), file_name=record.file_name)
        except (OSError, RunnerError) as error:
            require_storage(error, run.root)
            return None
        there = (run.adapter / "adapter_model.safetensors").is_file()
        gone = record.erased is not None or (needs_rows and record.cleared is not None)
        if record.state is State.SUCCEEDED and there and not gone:
            return Live(run=run, record=record, asked=spec)
    return None


def _free_cards(daemon: Daemon) -> list[Card]:
    """List the cards on which nothing else is at work, and nothing speaks against starting.

    The largest comes first: the run may have been trained there. None where a run is at work under
    which the machine goes down: nothing is to go down with it.
    """
    at_work = [
        live
        for live in daemon.book.runs.values()
        if live.child is not None and live.stage is not Stage.PREPARE
    ]
    if daemon.hold or any(is_suspect(live.record.falls) for live in at_work):
        return []
    busy = [card for live in at_work for card in live.cards]
    free = [card for card in daemon.cards.all if card not in busy and not card.problem]
    return sorted(free, key=lambda card: -(card.described.total_bytes if card.described else 0))


def _begin(daemon: Daemon, asked: Asked, live: Live, card: Card) -> bool:
    """Begin it on a card; False: somebody else works there. It is asked again in the next round."""
    try:
        lease = card.take_lease(f"run {live.record.run_id}")
    except BusyError:
        return False
    try:
        sweep_run(live.run)  # gigabytes of weights, where an earlier try was cut off
        folder = live.run.root / asked.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        settings = daemon.settings
        if card.guard.is_well:  # the card, and never the CPU in its place
            settings = replace(settings, device="cuda")
        plan = make_plan(
            asked.stage, settings=settings, run=live.run, record=live.record, spec=live.spec
        )
        changed = plan.model_copy(update={"alone": True, **asked.changes})
        write_message(StageFolder(folder).plan, changed)
        process = process_for(daemon, asked.stage, folder, (card,), held=(lease.descriptor,))
        child = Child(process, folder=folder, on_exit=daemon.wakeup.set)
    finally:
        lease.release()  # the child has inherited it
    live.stage, live.cards = asked.stage, (card,)
    daemon.again = Again(asked=asked, live=live, child=child, folder=folder)
    daemon.say(live, f"{live.record.job}: {asked.doing}, as asked", pid=child.pid)
    return True


def follow_again(daemon: Daemon, at: float) -> None:
    """See to a run with a stage at work again: its end is written into the record."""
    again = daemon.again
    if again is None or again.is_over:
        return
    if daemon.stopping:
        again.child.ask_to_stop(at=at, grace_seconds=daemon.settings.grace_seconds)
    if daemon.hurry:
        again.child.kill()
    again.child.enforce(at)
    code = again.child.poll()
    if code is None:
        return
    if again.child.is_stopping:
        daemon.again = None  # the request lies there: the next daemon begins again
        return
    with daemon.isolating(again.live, at):
        again.asked.conclude(daemon, again, code)
        again.is_over = True
        daemon.wakeup.set()
