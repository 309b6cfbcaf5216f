"""Which stage starts on which card now: the decision as a table."""

from __future__ import annotations

import pytest

from runner.daemon.stages.next_start import (
    AtWork,
    Choice,
    Offer,
    choose,
    free_places,
    is_for_larger_card,
    lets_others_go_first,
    may_prepare,
    must_wait_for_its_job,
)

GOOD, UNKNOWN, LOST = Offer(place=0), Offer(place=1, is_known=False), Offer(place=2, problem="lost")
PREPARES = AtWork(place=None)


@pytest.mark.parametrize(
    ("cards", "at_work", "free"),
    [
        (1, [], [0]),
        (1, [AtWork(place=0)], []),
        (1, [PREPARES], [0]),  # it takes no card
        (1, [PREPARES, AtWork(place=0)], []),
        (3, [AtWork(place=1)], [0, 2]),
        (2, [AtWork(place=0), AtWork(place=1)], []),
        (2, [AtWork(place=0, is_suspect=True)], []),  # nothing goes down with it
        (2, [AtWork(place=None, is_suspect=True)], [0, 1]),
    ],
)
def test_each_card_works_on_one_stage_at_a_time(
    cards: int, at_work: list[AtWork], free: list[int]
) -> None:
    """A card with a stage on it is offered to nobody."""
    assert free_places(cards, at_work) == free


@pytest.mark.parametrize(
    ("offers", "choice"),
    [
        ([GOOD], Choice(place=0)),
        ([LOST, GOOD], Choice(place=0)),
        ([UNKNOWN, GOOD], Choice(place=0)),  # a slow driver holds nothing back from the other card
        ([GOOD, LOST], Choice(place=0)),
        ([UNKNOWN, LOST], Choice()),
        ([LOST, Offer(place=3, problem="held")], Choice(waits="lost")),
        ([], Choice()),
    ],
)
def test_the_first_good_card_is_taken(offers: list[Offer], choice: Choice) -> None:
    """A run waits only where no card will do, and says why as soon as all have answered."""
    assert choose(offers) == choice


@pytest.mark.parametrize(
    ("fits", "total", "others", "cap", "waits"),
    [
        (False, 8, [24], None, True),
        (True, 8, [24], None, False),
        (None, 8, [24], None, False),  # nothing is known of its model
        (False, 24, [8], None, False),  # none is larger: it is tried, as on a box with one card
        (False, 24, [24], None, False),
        (False, 24, [0], None, False),  # the other was never seen
        (False, 8, [24], 8, False),  # the spec allows no more on the larger one
        (False, 8, [24], 16, True),
    ],
)
def test_a_run_that_does_not_fit_waits_for_a_larger_card(
    fits: bool | None,  # noqa: FBT001
    total: int,
    others: list[int],
    cap: int | None,
    waits: bool,  # noqa: FBT001
) -> None:
    """On the small one it would end for want of memory, though the box has enough."""
    assert is_for_larger_card(total, others, fits=fits, cap_bytes=cap) is waits


def test_others_start_on_a_card_that_is_too_small_for_the_first() -> None:
    """Only where each free card is: one that is held may be free sooner than the larger one."""
    small = Offer(place=0, problem="too small", is_too_small=True)
    assert lets_others_go_first([small])
    assert not lets_others_go_first([small, LOST])
    assert not lets_others_go_first([])


@pytest.mark.parametrize(
    ("preparing", "prepared", "free", "may"),
    [
        (False, 0, 0, True),  # one trains: the next one is prepared
        (False, 1, 0, False),  # one is ready already
        (False, 1, 1, True),  # it has just started
        (False, 2, 1, False),
        (False, 1, 2, True),  # the other card needs one as well
        (True, 0, 2, False),  # one at a time
    ],
)
def test_one_run_is_prepared_ahead_of_the_cards(
    preparing: bool,  # noqa: FBT001
    prepared: int,
    free: int,
    may: bool,  # noqa: FBT001
) -> None:
    """No more than one waits prepared beside cards that are all at work."""
    assert may_prepare(is_preparing=preparing, prepared=prepared, free=free) is may


def test_runs_of_one_job_go_one_after_the_other() -> None:
    """Another job's run starts beside it; one that is only prepared holds nobody up."""
    at_work = [AtWork(place=0, job="contracts"), AtWork(place=None, job="letters")]
    waits = [must_wait_for_its_job(job, at_work) for job in ("contracts", "letters", "invoices")]
    assert waits == [True, False, False]
