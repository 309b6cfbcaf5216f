"""Promotion at a run's end: the gate decides, the record says so, and then `current` moves.

The record comes first. A daemon that is killed in between finds at its next start that the record
says promoted and the history does not, and carries it out.
"""

from __future__ import annotations

from collections.abc import Iterable

from runner.contract.gate import Measured, Promotion, Wish, after_asking, decide, unknown_current
from runner.contract.layout import Outputs, RunFolder, StageFolder
from runner.contract.promotions import (
    GATE,
    check_promotable,
    current_run,
    heal,
    known_current,
    promote,
    read_promotions,
)
from runner.contract.record import RunRecord, read_record
from runner.contract.stage_io import EvaluatePlan, read_message
from runner.daemon.daemon import Daemon
from runner.daemon.promotion.show import is_said, not_in_use, show_use
from runner.errors import RunnerError
from runner.files.unreadable import require_storage
from runner.spec.as_chosen import method_of_run
from runner.spec.spec import JobSpec
from runner.words import visible


def adapter_in_use(outputs: Outputs, record: RunRecord, spec: JobSpec) -> str | None:
    """Give the folder of the adapter that a run is to be compared with, where that can be done.

    None: none is in use, its adapter is gone, or it stands on another base model, or on the same in
    other bits while the new one is judged on the base as it was trained on.

    Raises:
        UnreadableError: that cannot be read now: uncompared, a better one would not come into use.
    """
    run_id = current_run(outputs, record.job)
    if run_id is None or run_id == record.run_id:
        return None
    run = outputs.run(record.job, run_id)
    if not run.adapter.is_dir() or not _on_the_same_base(outputs, record, run_id):
        return None
    as_trained = spec.evaluation.served != "original"
    if as_trained and method_of_run(run) != (spec.named_method or "qlora"):
        return None
    return str(run.adapter.resolve())


def _on_the_same_base(outputs: Outputs, record: RunRecord, run_id: str) -> bool:
    path = outputs.run(record.job, run_id).record
    try:
        other = read_record(path).model
    except (OSError, RunnerError) as error:
        require_storage(error, path)
        return False
    mine = record.model
    if mine is None or other is None:
        return mine is other
    return (mine.id, mine.sha256) == (other.id, other.sha256)


def judge_promotion(
    outputs: Outputs, run: RunFolder, record: RunRecord, spec: JobSpec
) -> Promotion:
    """Decide whether a run that has just been evaluated becomes its job's current one.

    Raises:
        UnreadableError: what is in use cannot be read now; it is decided once it can.
    """
    try:
        current = _served(outputs, record.job)
    except OSError as error:
        require_storage(error, outputs.promotions(record.job))
        return unknown_current(record.job)
    wish = Wish(
        when=spec.promote.when,
        metric=spec.promote.metric,
        margin=spec.promote.margin or 0.0,
    )
    return decide(
        wish,
        Measured(
            verdict=record.verdict,
            evaluation=record.evaluation,
            current=None if current == record.run_id else current,
            compared_with=_compared_with(run),
            same_base=current is None or _on_the_same_base(outputs, record, current),
        ),
    )


def _served(outputs: Outputs, job: str) -> str | None:
    """Give the run in use; None: there is none, or its adapter was deleted and serves nobody.

    Raises:
        OSError: nobody can say.
    """
    current = known_current(outputs, job)
    if current is not None and not outputs.run(job, current).adapter.is_dir():
        return None
    return current


def judge_again(
    outputs: Outputs, run: RunFolder, record: RunRecord, spec: JobSpec
) -> Promotion | None:
    """Ask the gate once more about a run that was evaluated again.

    What a spec's `never`, `approved` and `always` have decided does not follow from what was
    measured, and a run that is in use stays so: only a person or a better run ends that.
    """
    try:
        changes = read_promotions(outputs, record.job)
    except OSError:
        return record.promotion
    is_current = bool(changes) and changes[-1].run_id == record.run_id
    if spec.promote.when != "better" or is_current:
        return record.promotion
    found = judge_promotion(outputs, run, record, spec)
    was_in_use = any(one.run_id == record.run_id for one in changes)
    by_hand = bool(changes) and changes[-1].by != GATE
    is_newer = not changes or record.sequence > _sequence(outputs, record.job, changes[-1].run_id)
    return after_asking(found, is_older=was_in_use or by_hand or not is_newer)


def _sequence(outputs: Outputs, job: str, run_id: str) -> int:
    """Give the order of a run's claim; of one that is gone, one before all others."""
    try:
        return read_record(outputs.run(job, run_id).record).sequence
    except (OSError, RunnerError):
        return -1


def _compared_with(run: RunFolder) -> str | None:
    """Give the run whose adapter was evaluated beside this one's: the stage's plan names it."""
    path = StageFolder(run.evaluation).plan
    try:
        plan = read_message(path, EvaluatePlan)
    except (OSError, RunnerError) as error:
        require_storage(error, path)
        return None
    if plan.current_adapter is None:
        return None
    parts = plan.current_adapter.rstrip("/").split("/")
    return parts[-2] if len(parts) > 1 else None


def promote_waiting(daemon: Daemon) -> None:
    """Carry out what is still to be; where the disk is full, in a later round."""
    for record in list(daemon.to_promote):
        where = f"outputs/{visible(record.job)}/current"
        with daemon.noting_trouble(), daemon.noting(_about(record.job), where):
            _carry_out(daemon, record)
            daemon.to_promote.remove(record)


def _carry_out(daemon: Daemon, record: RunRecord) -> None:
    """Move `current` where the record says so and the history does not yet.

    Raises:
        OSError: it cannot be written; the next start tries again.
    """
    promotion = record.promotion
    if promotion is None or not promotion.is_promoted:
        return
    outputs, run = daemon.outputs, daemon.outputs.run(record.job, record.run_id)
    changes = read_promotions(outputs, record.job)
    if any(one.run_id == record.run_id for one in changes):
        heal(outputs, record.job)
        return
    if _served(outputs, record.job) != promotion.against:
        return  # somebody has chosen another one since: the decision was about what is gone
    try:
        check_promotable(run)
    except RunnerError as error:
        daemon.note(not_in_use(record.job), f"{error.message}: it was not put into use")
        return
    daemon.note(not_in_use(record.job), None)
    if promote(outputs, run, why=promotion.reason, by=GATE):
        daemon.log.say(f"{record.job}: current is {record.run_id}", reason=promotion.reason)
        show_use(daemon, record.job)


def heal_all(daemon: Daemon, newest: Iterable[RunRecord]) -> None:
    """Carry out what an earlier daemon did not come to, and bring each `current` to its history."""
    for record in newest:
        with daemon.noting(_about(record.job), f"outputs/{visible(record.job)}/current"):
            _carry_out(daemon, record)
    for job in daemon.outputs.jobs_with_promotions():
        problem = None
        with daemon.noting(_about(job), f"outputs/{visible(job)}/current"):
            problem = heal(daemon.outputs, job)
        if problem:
            daemon.note(_about(job), problem)
        if not is_said(daemon, job):  # it was changed by hand, while no daemon ran
            show_use(daemon, job)


def _about(job: str) -> str:
    return f"current of {job}"
