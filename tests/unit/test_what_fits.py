"""A run that fits nowhere ends with figures, and with advice that is true."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from test_forecast import work

from runner.forecast.choose import ROOM_SHARE, candidates
from runner.forecast.forecast import forecast
from runner.forecast.what_fits import does_not_fit
from runner.forecast.work import GIB, Box

LONG = tuple([60_000, 30_000] + [900] * 798)


def told(box: Box, *, beside: str = "", **changes: Any) -> tuple[str, list[str]]:
    """Give the message and the ways of a run that ended at its smallest plan."""
    run = work(**changes)
    found = does_not_fit(run, candidates(run)[-1], box, after_step=3, beside=beside)
    assert found.kind == "out_of_gpu_memory"
    ways = str(found.advice).removeprefix("Any of these helps: ").removesuffix(".")
    return found.message, ways.split("; ")


def card(gib: float, **known: Any) -> Box:
    """Give a box with a card."""
    return Box(gpu_memory_bytes=int(gib * GIB), **known)


def test_the_figures_are_the_forecasts() -> None:
    """What is needed, what may be used and what is missing: to a tenth of a GiB."""
    message, _ = told(card(12), lengths=LONG)
    run = work(lengths=LONG)
    needed = forecast(run, candidates(run)[-1], Box()).gpu_memory_bytes / GIB
    figures = [float(one) for one in re.findall(r"([\d.]+) GiB", message)]
    assert needed <= figures[0] < needed + 0.1
    assert 11.65 < figures[1] <= 11.75
    assert figures[2] == pytest.approx(figures[0] - figures[1])  # as a person checks it
    assert "60,000 tokens" in message
    assert "after step 3" in message


@pytest.mark.parametrize(
    ("box", "changes", "ways"),
    [
        (card(12), {"lengths": LONG}, ["training.max_length", "a card with"]),
        (card(12), {"rank": 512, "lengths": (100,) * 50}, ["lora.r", "a card with"]),
        (card(16), {"method": "lora"}, ["method: qlora", "a card with"]),
        (card(12), {"method": "lora", "lengths": LONG}, ["training.max_length", "a card with"]),
        (card(24, budget_bytes=8 * GIB), {"lengths": (20_000, 9)}, ["training.", "limits."]),
        (card(80), {"lengths": (2_000_000, 9)}, ["training.max_length"]),
        (Box(), {}, ["more memory for the machine", "a card with"]),
        (Box(budget_bytes=9 * GIB), {}, ["more memory for the machine", "a card with"]),
    ],
)
def test_every_way_named_fits(box: Box, changes: dict[str, Any], ways: list[str]) -> None:
    """Each suggestion, followed, is forecast to fit with room to spare; a smaller model may."""
    run = work(**changes)
    plan = candidates(run)[-1]
    _, found = told(box, **changes)
    assert len(found) == len(ways) + 1
    assert all(one.startswith(way) for one, way in zip(found, ways, strict=False)), found
    assert found[-1] == "a smaller model"
    for way in found[:-1]:
        other, limit = _followed(run, way), box.limit_bytes
        if gib := re.match(r"a card with (\d+)", way):
            limit = card(int(gib[1])).limit_bytes
        elif gib := re.match(r"limits.gpu_memory_gib: ([\d.]+)", way):
            limit = int(float(gib[1]) * GIB)
        if box.gpu_memory_bytes is None and not gib:
            continue
        assert limit is not None
        assert forecast(other, plan, box).gpu_memory_bytes <= ROOM_SHARE * limit, way


def _followed(run: Any, way: str) -> Any:
    if "method: qlora" in way:
        run = replace(run, method="qlora")
    if rank := re.match(r"lora.r: (\d+)", way):
        run = replace(run, rank=int(rank[1]))
    if length := re.match(r"training.max_length: (\d+)", way):
        run = replace(run, lengths=run.lengths.cut(int(length[1])))
    return run


def test_the_longest_length_is_named_with_what_it_costs() -> None:
    """One step more would not fit, and the person learns how many rows are longer."""
    _, (way, *_) = told(card(12), lengths=LONG)
    match = re.fullmatch(
        r"training.max_length: (\d+) \(rows longer than that: ([\d,]+) of 800\)", way
    )
    assert match is not None
    length = int(match[1])
    assert int(match[2]) == sum(one > length for one in LONG)
    run = work(lengths=tuple(min(one, length + 64) for one in LONG))
    needed = forecast(run, candidates(run)[-1], Box()).gpu_memory_bytes
    assert needed > ROOM_SHARE * 11.75 * GIB


def test_a_forecast_that_was_too_low_is_not_trusted_again() -> None:
    """Where a run that should have fitted did not, its advice leaves out as much more."""
    message, ways = told(card(12))
    assert "were forecast, and it took more than the 11.8 GiB" in message
    assert "a card with 16 GiB" in ways
    run = work()
    off = 11.75 * GIB / forecast(run, candidates(run)[-1], Box()).gpu_memory_bytes
    assert off > 1.2
    for way in ways:
        if way.startswith("training."):
            needed = forecast(_followed(run, way), candidates(run)[-1], Box()).gpu_memory_bytes
            assert needed * off <= ROOM_SHARE * 11.75 * GIB


def test_who_else_uses_the_card_comes_first() -> None:
    """The nearest way is to end what else runs there."""
    _, ways = told(card(9), beside="held by ollama (process 7) 15.0 GiB", lengths=LONG)
    assert ways[0] == "to end what else uses the GPU (held by ollama (process 7) 15.0 GiB)"
