"""A thousand runs that wait for data: each round looks at some of them, and none is passed over."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from runner.contract.states import Stage
from runner.daemon.inbox.wait_for_data import some_from
from runner.daemon.stages import start


def walk(run_ids: list[str], *, most: int, rounds: int) -> list[list[str]]:
    """Give what each round looks at."""
    after, seen = None, []
    for _ in range(rounds):
        looked, after = some_from(run_ids, after=after, most=most)
        seen.append(list(looked))
    return seen


def test_each_has_its_turn_and_then_the_first_again() -> None:
    names = list("abcdefg")
    assert walk(names, most=3, rounds=4) == [list("abc"), list("def"), ["g"], list("abc")]


def test_few_are_looked_at_in_every_round() -> None:
    assert walk(list("abc"), most=3, rounds=3) == [list("abc")] * 3


def test_where_the_last_one_is_gone_it_begins_anew() -> None:
    assert some_from(list("abcd"), after="x", most=2) == (["a", "b"], "b")
    assert some_from([], after="x", most=2) == ([], None)


class _Daemon:
    """What choosing whom to prepare asks of a daemon; a thousand real runs take a minute."""

    def __init__(self) -> None:
        self.book = SimpleNamespace(runs={})
        self.data = SimpleNamespace(looked_to=None, told_at=0.0)
        card = SimpleNamespace(problem="", name="")
        self.cards = SimpleNamespace(all=(card,), well_first=lambda: [card])
        self.cluster = None

    def isolating(self, _live: object, _at: float) -> Any:
        return nullcontext()


def test_a_round_looks_at_a_hundred_and_a_turn_goes_back_to_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    daemon: Any = _Daemon()
    waiting: Any = [
        SimpleNamespace(
            record=SimpleNamespace(run_id=f"{number:04}", job=f"{number}"),
            next_stage=Stage.PREPARE,
            child=None,
        )
        for number in range(1000)
    ]
    looked: list[str] = []
    has_data: set[str] = set()

    def prepare(_daemon: object, live: Any, _blocked: object) -> bool:
        looked.append(live.record.run_id)
        return live.record.run_id in has_data

    monkeypatch.setattr(start, "_prepare", prepare)
    monkeypatch.setattr(start, "awaiting_answers", lambda *_: nullcontext())
    for _ in range(10):
        start._start_next(daemon, waiting, None, 0.0)
    assert looked == [live.record.run_id for live in waiting]
    looked.clear()
    start._start_next(daemon, waiting, None, 0.0)
    assert len(looked) == 100
    has_data.add("0150")
    assert start._start_next(daemon, waiting, None, 0.0)
    assert looked[-1] == "0150"
    looked.clear()
    start._start_next(daemon, waiting, None, 0.0)
    assert looked[0] == "0000"
