"""Which stage starts on which card now: the decision as a table."""

from __future__ import annotations

import pytest

from runner.daemon.stages.next_start import (
    HAD,
    PASSED,
    AtWork,
    Choice,
    Kind,
    Offer,
    Turn,
    cards_for,
    choose,
    equal_first,
    free_places,
    is_for_larger_card,
    may_go_before,
    may_prepare,
    must_wait_for_its_job,
    preparers,
    together,
    turn_of_who_waits,
)

GOOD, UNKNOWN, LOST = Offer(place=0), Offer(place=1, is_known=False), Offer(place=2, problem="lost")
PREPARES = AtWork()


@pytest.mark.parametrize(
    ("cards", "at_work", "free"),
    [
        (1, [], [0]),
        (1, [AtWork(places=(0,))], []),
        (1, [PREPARES], [0]),  # it takes no card
        (1, [PREPARES, AtWork(places=(0,))], []),
        (3, [AtWork(places=(1,))], [0, 2]),
        (2, [AtWork(places=(0,)), AtWork(places=(1,))], []),
        (3, [AtWork(places=(0, 2))], [1]),  # one run on two cards
        (2, [AtWork(places=(0,), is_suspect=True)], []),  # nothing goes down with it
        (2, [AtWork(is_suspect=True)], [0, 1]),
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
        ([GOOD], Choice(places=(0,))),
        ([LOST, GOOD], Choice(places=(0,))),
        (
            [UNKNOWN, GOOD],
            Choice(places=(0,)),
        ),  # a slow driver holds nothing back from the other card
        ([GOOD, LOST], Choice(places=(0,))),
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
    assert turn_of_who_waits([small]) == PASSED
    assert turn_of_who_waits([small, LOST]) == HAD
    assert turn_of_who_waits([]) == HAD


@pytest.mark.parametrize(
    ("offers", "choice"),
    [
        ([GOOD, Offer(place=3)], Choice(places=(0, 3))),
        ([GOOD, LOST, Offer(place=3), Offer(place=4)], Choice(places=(0, 3))),
        ([GOOD], Choice(waits=together(2))),
        ([], Choice(waits=together(2))),
        ([GOOD, LOST], Choice(waits="lost")),  # the one that is good is not taken alone
        ([GOOD, UNKNOWN], Choice()),
    ],
)
def test_several_cards_are_taken_together_or_not_at_all(
    offers: list[Offer], choice: Choice
) -> None:
    """Half of what it needs would keep others waiting, and two such runs each other for good."""
    assert choose(offers, wanted=2) == choice


def test_the_card_that_is_free_is_held_for_who_needs_two() -> None:
    """Those that it can use alone: on the others the queue goes on, and it has no such card."""
    assert turn_of_who_waits([GOOD], wanted=2) == Turn(was_had=False, held=(0,))
    assert turn_of_who_waits([], wanted=2) == PASSED


def kinds(*said: tuple[str, int, bool | None]) -> list[Kind]:
    """Describe cards."""
    return [
        Kind(place=place, name=name, total_bytes=size, fits=fits)
        for place, (name, size, fits) in enumerate(said)
    ]


@pytest.mark.parametrize(
    ("wanted", "said", "places"),
    [
        (2, [("a", 24, True), ("a", 24, True)], [0, 1]),
        (2, [("b", 8, False), ("a", 24, True), ("a", 24, True)], [1, 2]),
        (2, [("b", 8, None), ("a", 24, None)], [0, 1]),  # nothing is known of its model
        (2, [("b", 8, False), ("a", 24, True)], [0, 1]),  # the card has the last word
        (2, [("b", 8, False), ("c", 16, False), ("a", 24, False)], [1, 2]),
    ],
)
def test_ranks_train_where_they_fit(
    wanted: int, said: list[tuple[str, int, bool | None]], places: list[int]
) -> None:
    """A card that is too small is none of them where enough others are there, busy or not."""
    assert [kind.place for kind in cards_for(wanted, kinds(*said))] == places


@pytest.mark.parametrize(
    ("wanted", "said", "order"),
    [
        (2, [("a", 24), ("a", 24)], [0, 1]),
        (2, [("a", 24), ("b", 24), ("b", 24)], [1, 2, 0]),  # equal ones
        (2, [("a", 24), ("b", 80), ("a", 24), ("b", 80)], [1, 3, 0, 2]),  # and the larger of these
        (2, [("a", 24), ("b", 80), ("c", 48)], [1, 2, 0]),  # none are equal: the largest
        (3, [("a", 24), ("b", 80), ("b", 80)], [1, 2, 0]),
        (2, [("a", 24), ("b", 24), ("a", 24), ("b", 24)], [0, 2, 1, 3]),  # no pair of two kinds
    ],
)
def test_equal_cards_are_asked_first(
    wanted: int, said: list[tuple[str, int]], order: list[int]
) -> None:
    """The slowest sets the pace, and the smallest the plan."""
    assert equal_first(wanted, kinds(*((name, size, True) for name, size in said))) == order


@pytest.mark.parametrize(
    ("preparing", "prepared", "free", "may"),
    [
        (0, 0, 0, True),  # one trains: the next one is prepared
        (0, 1, 0, False),  # one is ready already
        (0, 1, 1, True),  # it has just started
        (0, 2, 1, False),
        (0, 1, 2, True),  # the other card needs one as well
        (1, 0, 0, False),
        (1, 0, 1, False),  # one at a time for one card
        (1, 0, 2, True),  # both cards have nothing to do
        (1, 1, 2, True),
        (1, 2, 2, False),
        (2, 0, 3, False),  # two at once are enough work for the cores
        (2, 0, 32, False),
    ],
)
def test_one_run_is_prepared_ahead_of_the_cards(
    preparing: int, prepared: int, free: int, *, may: bool
) -> None:
    """No more than one waits prepared beside cards that are all at work."""
    assert may_prepare(preparing=preparing, prepared=prepared, free=free) is may


@pytest.mark.parametrize(
    ("ahead", "free", "are_alike", "may"),
    [
        ([], 1, False, True),
        ([True], 2, True, True),
        ([True], 1, True, False),  # the card is for the one ahead
        ([True], 2, False, False),  # the one ahead may fit on no other than this
        ([False], 8, True, False),  # nobody knows how many it takes
        ([True, False], 8, True, False),
        ([True, True], 3, True, True),
        ([True, True], 2, True, False),
    ],
)
def test_who_is_prepared_sooner_leaves_a_card_to_each_that_is_ahead(
    ahead: list[bool], free: int, *, are_alike: bool, may: bool
) -> None:
    """The order is the queue's, whoever has fewer rows."""
    assert may_go_before(ahead, free=free, are_alike=are_alike) is may


@pytest.mark.parametrize(
    ("free", "preparing", "prepared", "wanted"),
    [
        (1, 0, 0, 1),  # an idle box
        (2, 0, 0, 2),
        (8, 0, 0, 2),  # no more are prepared at once
        (0, 0, 0, 0),  # the card works: what is prepared beside is in no hurry
        (0, 1, 0, 0),
        (1, 1, 0, 0),
        (1, 0, 1, 0),
        (2, 1, 0, 1),
        (2, 1, 1, 0),
        (2, 0, 3, 0),
    ],
)
def test_processes_stand_by_for_rows_that_cards_would_wait_for(
    free: int, preparing: int, prepared: int, wanted: int
) -> None:
    """Not beside a card that has its rows, or that others use."""
    assert preparers(free=free, preparing=preparing, prepared=prepared) == wanted


def test_runs_of_one_job_go_one_after_the_other() -> None:
    """Another job's run starts beside it; one that is only prepared holds nobody up."""
    at_work = [AtWork(places=(0,), job="contracts"), AtWork(job="letters")]
    waits = [must_wait_for_its_job(job, at_work) for job in ("contracts", "letters", "invoices")]
    assert waits == [True, False, False]
    assert must_wait_for_its_job("contracts", [AtWork(is_elsewhere=True, job="contracts")])
    assert must_wait_for_its_job("contracts", [], trained={"contracts"})
    assert not must_wait_for_its_job("letters", [], trained={"contracts"})
