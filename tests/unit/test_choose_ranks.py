"""On how many cards a job trains, as a table, and what a card holds and gives as one of several."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from test_fast_forecast import box as card
from test_fast_forecast import work

from runner.forecast.choose import choose
from runner.forecast.forecast import forecast
from runner.forecast.lengths import Lengths
from runner.forecast.passes import rank_tokens, steady
from runner.forecast.ranks import ALONE, Ranks, choose_ranks
from runner.forecast.seconds import step_seconds
from runner.forecast.what_fits import does_not_fit
from runner.forecast.work import GIB, RANK_BYTES, RANKS_EFFICIENCY, Work
from runner.training.ranks.deal import deal

TWO, SHARED = Ranks(count=2), Ranks(count=2, shard_base=True)


@pytest.mark.parametrize(
    ("wanted", "most", "may_share", "fitting", "chosen"),
    [
        (1, 4, True, set(), ALONE),
        (1, 4, True, {Ranks(count=1, shard_base=True)}, ALONE),  # with whom would it share?
        (2, 4, True, {TWO}, TWO),
        (2, 4, True, {SHARED}, SHARED),  # none has the room for the whole base
        (2, 4, False, {SHARED}, TWO),  # the plain path: the cards have the last word
        (2, 4, True, set(), TWO),
        ("auto", 4, True, {ALONE, SHARED}, ALONE),  # a second card is another job's
        ("auto", 4, True, {SHARED}, SHARED),
        ("auto", 4, True, {Ranks(count=3, shard_base=True)}, Ranks(count=3, shard_base=True)),
        ("auto", 2, True, {Ranks(count=3, shard_base=True)}, None),  # there are only two
        ("auto", 4, False, {TWO, SHARED}, None),
        ("auto", 1, True, set(), None),
    ],
)
def test_as_many_cards_as_it_needs_to_fit(
    wanted: int | Literal["auto"],
    most: int,
    may_share: bool,  # noqa: FBT001
    fitting: set[Ranks],
    chosen: Ranks | None,
) -> None:
    """A number is kept; `auto` takes one, and more only to share a base too large for it."""
    found = choose_ranks(wanted, most=most, may_share=may_share, fits=fitting.__contains__)
    assert found == chosen


def test_where_nothing_is_known_auto_takes_one_card() -> None:
    """Nothing says that it does not fit."""
    assert choose_ranks("auto", most=4, may_share=True, fits=lambda _: None) == ALONE


def test_each_of_several_cards_holds_what_one_would_and_a_sum_s_buffer() -> None:
    """The whole base, adapter and state; the gradients' buffer in fp32, and the ranks' talk."""
    what, one = work(), card(20.0)
    plan = choose(what, one).batch_plan
    alone, beside = forecast(what, plan, one), forecast(what, plan, TWO.of(one))
    more = beside.gpu_memory_bytes - alone.gpu_memory_bytes
    expected = 4 * what.adapter_parameters + RANK_BYTES
    assert more == pytest.approx(expected, rel=0.1)  # holes are a share of what is held
    assert (beside.ranks, beside.shard_base, alone.ranks) == (2, False, 1)


def test_each_of_several_cards_has_its_share_of_the_rows() -> None:
    """A step takes half its time and a little; the evaluation after it is one card's."""
    what, one = work(held_out_rows=100, held_out_tokens=50_000), card(20.0)
    plan = choose(what, one).batch_plan
    alone, both = (step_seconds(what, plan, ranks.of(one)) for ranks in (ALONE, TWO))
    assert alone is not None
    assert both is not None
    least = alone / (2 * RANKS_EFFICIENCY)
    assert least <= both < 1.1 * least  # its passes are smaller, and each costs something by itself
    told = forecast(what, plan, TWO.of(one))
    assert told.one_card_seconds is not None
    assert told.seconds is not None
    assert told.one_card_seconds / 2 < told.seconds < told.one_card_seconds
    assert told.one_card_seconds == forecast(what, plan, one).seconds


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("lengths", [[1000] * 4, [900, 800, 700, 20], [50, 40, 30, 20]])
def test_a_rank_s_share_is_no_more_than_is_planned_for(lengths: list[int], ranks: int) -> None:
    """As training deals the rows of a step: no pass is planned smaller than the largest share."""
    what = work(lengths=Lengths.of(lengths))
    largest = max(sum(lengths[i] for i in mine) for mine in deal(lengths, ranks))
    assert largest <= rank_tokens(what, len(lengths), ranks) <= sum(lengths)


def test_a_shared_base_is_divided_but_for_two_layers() -> None:
    """By the model's own numbers: what is in 4 bits is shared, all else is whole on each card."""
    what = work()
    shape, four = what.shape, Ranks(count=4, shard_base=True)
    packed = shape.layers * what.layer_bytes
    whole, shared = steady(what, card(20.0)), steady(what, four.of(card(20.0)))
    saved = packed - (packed / 4 + 2 * packed / shape.layers)
    assert whole.weights - shared.weights == pytest.approx(saved, rel=1e-6)
    assert whole.optimizer == shared.optimizer


def test_what_cards_share_waits_on_the_host_meanwhile() -> None:
    """By hand: each of two has half of the layers, so the host has the other half for each."""
    what = work()
    plan = choose(what, SHARED.of(card(20.0))).batch_plan
    whole, shared = (
        forecast(what, plan, r.of(card(20.0))).host_memory_bytes for r in (TWO, SHARED)
    )
    assert shared - whole == pytest.approx(what.shape.layers * what.layer_bytes, rel=1e-6)


def test_layers_that_are_sent_for_do_not_stay_unpacked() -> None:
    """However much room cards have that share a base; one that holds it whole has them so."""
    plans = [choose(work(), ranks.of(card(70.0))).batch_plan for ranks in (TWO, SHARED)]
    assert plans[0].layers_unpacked > 0
    assert plans[1].layers_unpacked == 0


def test_a_base_that_no_card_holds_fits_where_cards_share_it() -> None:
    """8B in 4 bits under 6 GiB: not on one, not on two that hold it whole."""
    what, small = work(), card(6.0)
    fits = {ranks: choose(what, ranks.of(small)).fits for ranks in (ALONE, TWO, SHARED)}
    assert fits == {ALONE: False, TWO: False, SHARED: True}
    plan = choose(what, SHARED.of(small)).batch_plan
    assert plan.layers_kept is not None  # the path that can
    assert plan.layers_unpacked == 0
    assert small.budget_bytes is not None
    assert choose(what, SHARED.of(small)).gpu_memory_bytes < 6.6 * GIB


def test_a_run_that_does_not_fit_learns_that_cards_could_share_its_base() -> None:
    """Only where the box has them, and a base that can be shared."""
    what, small = work(), card(6.8)
    plan = choose(what, small).batch_plan

    def advice(one: Work, cards: int) -> str:
        return str(does_not_fit(one, plan, small, after_step=0, cards=cards).advice)

    said = "resources.gpus: auto (2 cards that share the base model)"
    assert said in advice(what, 2)
    assert said in advice(what, 8)
    assert "resources" not in advice(what, 1)
    assert "resources" not in advice(replace(what, fast=False), 8)
