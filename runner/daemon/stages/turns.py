"""Turns: what is at work, who waits for another run, and what those are told who wait."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from runner.clock import now
from runner.contract.states import TRAINS, Stage
from runner.daemon.book import Live
from runner.daemon.change_run import change, keep_waiting
from runner.daemon.cluster.far_child import FarChild
from runner.daemon.daemon import Daemon
from runner.daemon.queue import in_order
from runner.daemon.stages.ask_card import NO_FP8, ONLY_LOST, TOO_SMALL
from runner.daemon.stages.falls import is_suspect, what_to_check, why_it_rests
from runner.daemon.stages.next_start import AtWork, may_go_before, must_wait_for_its_job
from runner.words import visible

_SAME_JOB = "another run of this job is at work; they go one after the other"


def stages_at_work(daemon: Daemon) -> list[AtWork]:
    """List the stages that are at work; one that prepares takes no card."""
    return [
        AtWork(
            places=()
            if live.stage is Stage.PREPARE
            else tuple(daemon.cards.all.index(card) for card in live.cards),
            is_elsewhere=isinstance(live.child, FarChild),
            job=live.record.job,
            is_suspect=is_suspect(live.record.falls),
        )
        for live in daemon.book.runs.values()
        if live.child is not None
    ]


def behind_others(prepared: Sequence[Live], at_work: Sequence[AtWork]) -> list[Live]:
    """List the runs that wait for another one of their job."""
    trained = {live.record.job for live in prepared if live.next_stage not in TRAINS}
    return [
        live
        for live in prepared
        if must_wait_for_its_job(
            live.record.job, at_work, trained=trained if live.next_stage in TRAINS else ()
        )
    ]


def without_too_early(daemon: Daemon, prepared: Sequence[Live], *, free: int) -> list[Live]:
    """Leave out the trainings whose turn comes after that of runs that are still being prepared."""
    names = {card.name for card in daemon.cards.all}
    are_alike = len(names) == 1 and daemon.cluster is None
    ahead: list[bool] = []
    too_early = set[str]()
    for record in in_order(live.record for live in daemon.book.runs.values()):
        live = daemon.book.runs[record.run_id]
        if live.child is not None and live.stage is Stage.PREPARE:
            ahead.append(live.spec.resources.gpus == 1)
        elif not may_go_before(ahead, free=free, are_alike=are_alike):
            too_early.add(record.run_id)
    return [
        live
        for live in prepared
        if live.next_stage not in TRAINS or live.record.run_id not in too_early
    ]


def rests_after_fall(daemon: Daemon, live: Live, at: float) -> bool:
    """Whether a run is not tried yet because the machine went down under it; it says so."""
    falls, left = live.record.falls, live.rests_after_fall_until - at
    if falls is None or left <= 0:
        return False
    with daemon.isolating(live, at):
        again_at = now() + timedelta(seconds=left)
        keep_waiting(daemon, live, why_it_rests(falls), again_at=again_at)
        name = f"{visible(live.record.job)} ({live.record.run_id})"
        daemon.note(live.record.run_id, f"{name}: {what_to_check(falls)}.")
    return True


def rests_after_loss(daemon: Daemon, live: Live, at: float) -> bool:
    """Whether a run is not trained yet whose stage lost one of several cards, nobody knows which.

    Once the driver calls one lost, that is why: the run waits for it, or trains on the others.
    """
    if daemon.cards.problems():
        live.trained_again_at = 0.0
    return live.trained_again_at > at


def tell_who_is_behind(daemon: Daemon, behind: Sequence[Live], at: float) -> None:
    """Say what runs wait for that are behind another one of their job."""
    for live in behind:
        with daemon.isolating(live, at):
            keep_waiting(daemon, live, _SAME_JOB)


def tell_what_is_over(
    daemon: Daemon,
    prepared: Sequence[Live],
    behind: Sequence[Live],
    *,
    any_free: bool,
    at: float,
) -> None:
    """Stop saying what a run waits for where that is over and it is not its turn yet."""
    for live in prepared:
        reason = live.record.waiting.reason if live.record.waiting else ""
        alone = reason == _SAME_JOB and live not in behind
        if live.lacks_cards and not any_free and not daemon.cards.problems():
            live.lacks_cards, alone = False, True
        if alone or (reason in (TOO_SMALL, NO_FP8, ONLY_LOST) and not any_free):
            with daemon.isolating(live, at):
                change(daemon, live, waiting=None)
