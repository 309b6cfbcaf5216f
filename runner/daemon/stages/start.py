"""Start stages: on each card one run trains, while the next one is prepared, or the next two."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

from runner.contract.method_choice import method_in
from runner.contract.record import ErrorFacts
from runner.contract.states import TRAINS, Stage, State
from runner.daemon.book import Live
from runner.daemon.cards import Card
from runner.daemon.change_run import change, end_run, keep_waiting
from runner.daemon.cluster.cluster import FarCard
from runner.daemon.cluster.place import may_train_far, placed_far, tell_who_waits
from runner.daemon.daemon import Daemon
from runner.daemon.gpu_watch import StillAsking
from runner.daemon.inbox.wait_for_data import named_files, some_from
from runner.daemon.promotion.start_from import choose_start
from runner.daemon.queue import in_order
from runner.daemon.schedule.hours import is_closed, waits_for_hours
from runner.daemon.stages.ask_card import (
    NO_FP8,
    ONLY_LOST,
    TOO_SMALL,
    Asked,
    Together,
    ask_card,
    best_first,
    only_lost,
    plan_together,
)
from runner.daemon.stages.await_answers import awaiting_answers
from runner.daemon.stages.begin import begin
from runner.daemon.stages.choose_cards import Wanted, wanted_cards
from runner.daemon.stages.choose_plan import Ahead
from runner.daemon.stages.falls import is_suspect
from runner.daemon.stages.look_at_card import has_rows_for
from runner.daemon.stages.mend_export import mend_export
from runner.daemon.stages.next_start import (
    HAD,
    PASSED,
    Choice,
    Turn,
    choose,
    free_places,
    may_prepare,
    turn_of_who_waits,
)
from runner.daemon.stages.rates import size_rates
from runner.daemon.stages.space import (
    needed_bytes,
    never_fits,
    over_disk_limit,
    short_of,
    still_to_write,
)
from runner.daemon.stages.turns import (
    behind_others,
    rests_after_fall,
    rests_after_loss,
    stages_at_work,
    tell_what_is_over,
    tell_who_is_behind,
    without_too_early,
)
from runner.errors import RunnerError

_MOST_LOOKED = 100
"""Runs whose data is looked at in one round, 0.5 ms each: a thousand that wait for files would hold
every round for half a second, and the next one goes on where this one stopped."""
_MOST_TOO_LARGE = 5
"""Prepared runs that pass a card in one round, a forecast each, and are kept beside it: each has
tokens on the disk."""
_PLACING_SECONDS = 0.1
"""Of one round, for trainings that are placed on further boxes: half of what a round may take."""
_MOST_TOLD = 50  # runs whose data is looked at in one round: it is to take 0.2 s at most
_TOLD_APART_SECONDS = 5.0  # as often as answers are renewed


def start_what_can(daemon: Daemon, at: float) -> None:
    """Start the next stage of whoever is next, and prepare runs ahead of the cards."""
    if daemon.hold is not None and at >= daemon.hold[0]:
        daemon.hold = None
    daemon.cards.look(at)
    closed = is_closed(daemon)
    waiting = [
        live
        for record in in_order(live.record for live in daemon.book.runs.values())
        if (live := daemon.book.runs[record.run_id]).child is None
        and not record.state.is_final
        and not live.cancel
        and not live.left_open
        and live.rests_until <= at
        and not rests_after_loss(daemon, live, at)
        and not rests_after_fall(daemon, live, at)
        and not waits_for_hours(daemon, live, at, closed=closed)
    ]
    blocked = _box_problem(daemon)
    suspects = [live for live in waiting if is_suspect(live.record.falls)]
    others = [live for live in waiting if live not in suspects]
    had_its_turn = _start_next(daemon, others, blocked, at)
    alone = not any(live.child for live in daemon.book.runs.values())
    if suspects and alone and not had_its_turn:  # where it falls again, nothing falls with it
        _start_next(daemon, suspects[:1], blocked, at)


def _start_next(daemon: Daemon, waiting: Sequence[Live], blocked: str | None, at: float) -> bool:
    """Give the first that can use it its turn; False: nobody had one."""
    at_work = stages_at_work(daemon)
    places = free_places(len(daemon.cards.all), at_work)
    free = [card for card in daemon.cards.well_first() if daemon.cards.all.index(card) in places]
    preparing = [one.job for one in at_work if one.prepares]
    prepared = [live for live in waiting if live.next_stage is not Stage.PREPARE]
    ready = len(prepared)
    can_start = sum(not card.problem for card in free)
    prepared = without_too_early(daemon, prepared, free=can_start)
    behind = behind_others(prepared, at_work)
    tell_what_is_over(daemon, prepared, behind, any_free=bool(free), at=at)
    had_its_turn, held, without_room, too_large = False, set[int](), 0, 0
    far_places = 0
    if daemon.cluster is not None and blocked is None:
        if _start_all_far(daemon, prepared, behind, free, at):
            return True  # another one's turn comes in the next round, at once
        far_places = len(daemon.cluster.free_cards(at))
        if daemon.settings.cluster == "others":
            tell_who_waits(daemon, [one for one in prepared if one not in behind], at)
            tell_who_is_behind(daemon, behind, at)
            prepared = [live for live in prepared if not may_train_far(live)]
    for live in prepared if free else ():
        if live in behind:
            without_room += 1
            tell_who_is_behind(daemon, [live], at)
            continue
        trains = live.next_stage in TRAINS
        offered = [card for card in free if not trains or daemon.cards.all.index(card) not in held]
        if not offered:
            continue
        turn = HAD
        with daemon.isolating(live, at), awaiting_answers(daemon, live):
            turn = _start_or_wait(daemon, live, blocked, offered)
        had_its_turn = had_its_turn or turn != PASSED
        if turn.was_had:  # another card's turn comes in the next round, at once
            break
        held.update(turn.held)
        without_room += not turn.held
        waiting_now = live.record.waiting
        too_large += waiting_now is not None and waiting_now.reason in (TOO_SMALL, NO_FP8)
        if too_large == _MOST_TOO_LARGE:
            break
    ready -= without_room
    if not may_prepare(preparing=len(preparing), prepared=ready, free=can_start + far_places):
        tell_data_that_came(daemon, waiting, at)
        return had_its_turn
    # A run is compared with its job's last one, whose rows must be there.
    unprepared = {
        live.record.run_id: live
        for live in waiting
        if live.next_stage is Stage.PREPARE and live.record.job not in preparing
    }
    looked, daemon.data.looked_to = some_from(
        list(unprepared), after=daemon.data.looked_to, most=_MOST_LOOKED
    )
    for run_id in looked:
        live = unprepared[run_id]
        with daemon.isolating(live, at), awaiting_answers(daemon, live):
            if _prepare(daemon, live, blocked):
                daemon.data.looked_to = None  # whoever is first in the queue is first again
                return True
    return had_its_turn


def _start_all_far(
    daemon: Daemon,
    prepared: Sequence[Live],
    behind: Sequence[Live],
    free: Sequence[Card],
    at: float,
) -> bool:
    """Start trainings on further boxes, as many as a part of a round has time for; False: none.

    One in each round left cards free that had a job: a busy head goes round once a second or less.
    """
    until, placed = time.monotonic() + _PLACING_SECONDS, 0
    while _start_far(daemon, [one for one in prepared if one not in behind], free, at):
        placed += 1
        left = [live for live in prepared if live.child is None]
        if len(left) == len(prepared) or time.monotonic() >= until:
            break  # the first of them waits for disk space: nobody goes before it
        prepared = left
        behind = behind_others(prepared, stages_at_work(daemon))
    if placed:
        assert daemon.cluster is not None
        with daemon.noting_trouble("the further boxes cannot be spoken with"):
            daemon.cluster.beat(at)  # all of them in one word
    return bool(placed)


def _start_far(
    daemon: Daemon,
    prepared: Sequence[Live],
    free: Sequence[Card],
    at: float,
) -> bool:
    """Start a training on a further box; False: none starts there now."""
    assert daemon.cluster is not None
    found = placed_far(daemon, prepared, free, at)
    if found is None:
        return False
    live, on, far = found
    turn = PASSED
    with daemon.isolating(live, at), awaiting_answers(daemon, live):
        if not _is_over_before(daemon, live) and not _turned_back(daemon, live, on.planned):
            turn = _begin_where_room(daemon, live, on, far)
    if turn.was_had:
        daemon.wakeup.set()
    return turn.was_had


def _is_over_before(daemon: Daemon, live: Live) -> bool:
    """Reject a run that could not start anywhere; prepare one again whose start fits no more."""
    start = choose_start(daemon.outputs, live.record, live.spec)
    if start.choose_again and not live.record.attempts:
        daemon.say(live, f"{live.record.job}: is prepared again, its start fits no more")
        again = {"state": State.QUEUED, "next_stage": Stage.PREPARE, "waiting": None}
        change(daemon, live, started_from=None, **again)
        return True
    if start.problem is None or live.record.attempts:
        return False
    end_run(daemon, live, State.REJECTED, start.problem)
    return True


def _prepare(daemon: Daemon, live: Live, blocked: str | None) -> bool:
    """Start a run's prepare stage; False when it waits for data and another may go first."""

    def start(blocked: str | None, cards: Sequence[Card]) -> bool:
        return _start_or_wait(daemon, live, blocked, cards) != PASSED

    if daemon.inbox_problem:
        return start(daemon.inbox_problem, ())
    cards = best_first(daemon, live, time.monotonic())
    files = named_files(live.spec)
    try:
        with daemon.open_inbox() as inbox:
            waits = daemon.data.waiting_for(inbox, files, time.monotonic())
            live.data_looks = daemon.data.looks(inbox, files)
    except (OSError, RunnerError) as error:
        return start(f"the inbox is unavailable ({error})", cards)
    if waits is None or not waits.missing:
        live.waits_for_data_since = None
    if waits is None:
        return start(blocked, cards)
    patience = 0.0 if daemon.settings.once or waits.never else daemon.settings.data_wait_seconds
    keep_waiting(
        daemon,
        live,
        waits.reason,
        patience_seconds=daemon.settings.data_wait_seconds if waits.missing else None,
        advice=waits.advice,
    )
    assert live.record.waiting is not None
    # Not by the record's times: a clock that was put forward would reject who waited for seconds.
    began = live.waits_for_data_since
    live.waits_for_data_since = began = time.monotonic() if began is None else began
    if waits.missing and time.monotonic() - began >= patience:
        # It is refused by the stage, with whatever else is wrong with its data.
        return start(blocked, cards)
    return False


def tell_data_that_came(daemon: Daemon, waiting: Sequence[Live], at: float) -> None:
    """Stop saying that runs wait for data that is there by now, though it is not their turn yet.

    A training may keep them waiting for hours, and their answers would send people to look for a
    file that is complete.
    """
    told = [live for live in waiting if live.waits_for_data_since is not None]
    if daemon.inbox_problem or not told or at < daemon.data.told_at + _TOLD_APART_SECONDS:
        return
    daemon.data.told_at = at
    try:
        inbox = daemon.open_inbox()
    except (OSError, RunnerError):
        return  # it is unavailable, which is said elsewhere
    with inbox:
        for live in told[:_MOST_TOLD]:
            with daemon.isolating(live, at):
                if daemon.data.waiting_for(inbox, named_files(live.spec), at) is None:
                    live.waits_for_data_since = None
                    change(daemon, live, waiting=None)


def _box_problem(daemon: Daemon) -> str | None:
    if daemon.hold is not None:
        return daemon.hold[1]
    try:
        return short_of(daemon, daemon.settings.min_free_bytes, time.monotonic())
    except OSError as error:
        return f"the outputs folder cannot be used ({error.strerror})"


def _start_or_wait(daemon: Daemon, live: Live, blocked: str | None, cards: Sequence[Card]) -> Turn:
    """Start the run's next stage on one of the cards, or on several, or record why it waits."""
    if live.next_stage in (Stage.PREPARE, *TRAINS) and _is_over_before(daemon, live):
        return HAD
    if blocked is not None:
        keep_waiting(daemon, live, blocked)
        return HAD
    if live.next_stage is Stage.EXPORT and mend_export(daemon, live):
        return HAD  # it trains on, in its turn and where trainings go
    wanted = wanted_cards(daemon, live, cards, time.monotonic())
    live.lacks_cards = bool(wanted.lacks)
    if wanted.lacks:
        keep_waiting(daemon, live, wanted.lacks, advice=wanted.advice)
        return PASSED
    with ExitStack() as leases:
        asked, choice = _ask(daemon, live, wanted, cards, leases)
        on, waits = _plan(daemon, live, wanted, asked, choice), choice.waits
        if on is not None and _turned_back(daemon, live, on.planned):
            return HAD
        if on is not None and wanted.ranks.count > 1:
            waits = on.planned.problem
        if waits is not None and wanted.ranks.count == 1 and only_lost(asked, daemon.cards.all):
            waits = ONLY_LOST
        if waits is not None:
            keep_waiting(daemon, live, waits)
            offers = [one.offer(daemon.cards.all.index(one.card)) for one in asked]
            return turn_of_who_waits(offers, wanted=wanted.ranks.count)
        if on is None or not choice.places:
            raise StillAsking
        return _begin_where_room(daemon, live, on)


def _ask(
    daemon: Daemon, live: Live, wanted: Wanted, cards: Sequence[Card], leases: ExitStack
) -> tuple[list[Asked], Choice]:
    """Ask the cards one after the other until as many are good as the run wants."""
    asked: list[Asked] = []
    choice, several = Choice(), wanted.ranks.count > 1
    for card in cards if wanted.cards is None else wanted.cards:
        at = time.monotonic()
        asked.append(ask_card(daemon, live, card, at, is_one_of_several=several))
        leases.callback(asked[-1].release)
        choice = choose(
            [one.offer(place) for place, one in enumerate(asked)], wanted=wanted.ranks.count
        )
        if choice.places:
            return asked, choice
    return asked, choice if asked else choose((), wanted=wanted.ranks.count)


def _plan(
    daemon: Daemon, live: Live, wanted: Wanted, asked: Sequence[Asked], choice: Choice
) -> Together | None:
    """Give the cards on which the stage would start; None: too few are free."""
    if wanted.ranks.count > 1:
        group = [asked[place] for place in choice.places]
        return plan_together(daemon, live, group, wanted.ranks) if group else None
    return Together(asked=(asked[-1],), planned=asked[-1]) if asked else None


def _begin_where_room(daemon: Daemon, live: Live, on: Together, far: FarCard | None = None) -> Turn:
    """Begin the stage, once the disk has room for what it writes."""
    needed = _needed_bytes(daemon, live, on.planned.ahead)
    if (never := never_fits(daemon, live, needed)) is not None:
        end_run(daemon, live, State.REJECTED, never)
        return HAD
    needed += still_to_write(daemon, live.next_stage)
    if (missing := short_of(daemon, needed, time.monotonic())) is not None:
        keep_waiting(daemon, live, missing)
        return PASSED
    begin(daemon, live, on, far)
    return HAD


def _turned_back(daemon: Daemon, live: Live, asked: Asked) -> bool:
    """Reject what the forecast rules out, and prepare anew what has rows for another method."""
    chosen = asked.chosen
    if chosen is not None and not has_rows_for(live.run, chosen):
        daemon.say(live, f"{live.record.job}: is prepared again, {method_in(chosen)}")
        change(daemon, live, state=State.QUEUED, next_stage=Stage.PREPARE, waiting=None)
        return True
    if (refused := _refused(live, asked.ahead)) is not None:
        end_run(daemon, live, State.REJECTED, refused)
        return True
    return False


def _refused(live: Live, ahead: Ahead | None) -> ErrorFacts | None:
    """Refuse what the forecast rules out; None: it may go on."""
    if ahead is None:
        return None
    over = over_disk_limit(live, forecast=ahead.facts.get("disk_bytes"))
    if over is None and live.next_stage is Stage.RATES:
        sized = size_rates(live.record, live.spec, ahead.facts)
        over = sized if isinstance(sized, ErrorFacts) else None
    return over


def _needed_bytes(daemon: Daemon, live: Live, ahead: Ahead | None) -> int:
    forecast = ahead.facts.get("disk_bytes") if ahead else None
    data_bytes = daemon.data.size_bytes(named_files(live.spec))
    return needed_bytes(daemon, live, forecast=forecast, data_bytes=data_bytes)
