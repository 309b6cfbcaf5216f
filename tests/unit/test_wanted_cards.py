"""Which cards a run of several is offered: those that work, however many the box has.

The cards are described by hand: no machine of the tests has three.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.card.answer import Answer
from runner.card.answer import Card as Named
from runner.card.find_cards import NamedCard
from runner.card.memory import GpuMemory
from runner.contract.settings import Settings
from runner.contract.states import Stage
from runner.daemon.cards import Cards
from runner.daemon.gpu_guard import TRY_AGAIN_SECONDS
from runner.daemon.gpu_watch import StillAsking
from runner.daemon.stages import choose_cards, end
from runner.daemon.stages.choose_cards import Wanted, _forecasts, wanted_cards
from runner.daemon.stages.end import Ended
from runner.daemon.stages.retry import Next
from runner.exit_codes import ExitCode
from runner.forecast.ranks import ALONE, Ranks
from runner.forecast.work import GIB

WELL = Answer(driver="580.95.05", cards=(Named(name="NVIDIA RTX A4000", capability="8.6"),))
OFF_THE_BUS = Answer(code=15, text="GPU is lost")


@dataclass(eq=False)
class Seen:
    """A card as the daemon has seen it."""

    described: GpuMemory
    problem: str
    name: str
    title: str


def card(
    number: int, gib: int = 24, *, problem: str = "", name: str = "card", capability: str = "8.6"
) -> Any:
    """Make one."""
    memory = GpuMemory(
        name=name,
        total_bytes=gib * GIB,
        free_bytes=gib * GIB,
        flops=None,
        capability=capability,
    )
    return Seen(described=memory, problem=problem, name=name, title=f"GPU {number} ({name})")


def box(*cards: Any) -> Any:
    """Make a daemon with these cards."""
    return SimpleNamespace(
        cards=SimpleNamespace(all=cards, are_several=len(cards) > 1, served=len(cards)),
        settings=SimpleNamespace(models_dir=None, look_ahead=True),
        outputs=None,
    )


def run(gpus: int | str, stage: Stage = Stage.TRAIN, *, speed: str = "exact") -> Any:
    """Make a run that asks for so many."""
    return SimpleNamespace(
        next_stage=stage,
        run=None,
        record=SimpleNamespace(total_steps=8),
        spec=SimpleNamespace(resources=SimpleNamespace(gpus=gpus), speed=speed),
    )


@pytest.fixture
def needs(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What a rank needs by the forecast, in GiB: alone, and all together where they share."""
    found = {"alone": 10.0, "together": 40.0}

    def fits(memory: GpuMemory, ranks: Ranks) -> bool:
        needed = found["together"] / ranks.count if ranks.shard_base else found["alone"]
        return memory.total_bytes >= needed * GIB

    monkeypatch.setattr(choose_cards, "_forecasts", lambda *_: (fits, lambda _memories: True))
    return found


@pytest.mark.usefixtures("needs")
def test_a_lost_card_is_none_of_several() -> None:
    """Two of three work: the run is offered these two, whichever of them is lost."""
    for lost in range(3):
        cards = [card(number, problem="lost" if number == lost else "") for number in range(3)]
        wanted = wanted_cards(box(*cards), run(2), cards, 0.0)
        assert wanted.ranks.count == 2
        assert wanted.cards == tuple(one for one in cards if not one.problem)


def test_a_lost_card_is_waited_for_where_the_others_are_too_few() -> None:
    """It is named; three that the box never had are another thing."""
    cards = [card(0), card(1, problem="lost")]
    wanted = wanted_cards(box(*cards), run(2), cards[:1], 0.0)
    assert wanted.cards is None
    assert "lost (GPU 1 (card))" in wanted.lacks
    assert "trains on 2 now" in wanted_cards(box(*cards), run(3), cards, 0.0).lacks


@pytest.mark.usefixtures("needs")
def test_cards_that_are_busy_are_counted_and_not_offered() -> None:
    """A run for two waits for the one that works on something else; it does not lack a card."""
    cards = [card(0), card(1)]
    wanted = wanted_cards(box(*cards), run(2), cards[1:], 0.0)
    assert not wanted.lacks
    assert wanted.cards == (cards[1],)


@pytest.mark.usefixtures("needs")
def test_a_card_that_is_too_small_is_left_to_others() -> None:
    """Also where it is free and a larger one is not."""
    cards = [card(0), card(1, 8, name="small"), card(2)]
    wanted = wanted_cards(box(*cards), run(2), cards[:2], 0.0)
    assert wanted.cards == (cards[0],)


@pytest.mark.usefixtures("needs")
def test_training_alone_takes_several() -> None:
    """Preparing and what follows takes one, and so does `auto` in a box with one card."""
    cards = [card(0), card(1)]
    for stage in (Stage.PREPARE, Stage.EXPORT, Stage.EVALUATE, Stage.HAND_OVER):
        assert wanted_cards(box(*cards), run(2, stage), cards, 0.0).ranks == ALONE
    assert wanted_cards(box(*cards), run(2, Stage.RATES), cards, 0.0).ranks.count == 2
    assert wanted_cards(box(cards[0]), run("auto"), cards[:1], 0.0).cards is None


@pytest.mark.parametrize("order", [(24, 16, 12), (24, 12, 16)])
def test_auto_counts_from_the_largest(order: tuple[int, ...], needs: dict[str, float]) -> None:
    """Cards that share a base divide it: two of 24 and 16 GiB hold what needs 32, and no third."""
    needs |= {"alone": 32.0, "together": 32.0}
    cards = [card(number, gib, name=str(gib)) for number, gib in enumerate(order)]
    wanted = wanted_cards(box(*cards), run("auto"), cards, 0.0)
    assert wanted.ranks == Ranks(count=2, shard_base=True)
    assert {one.name for one in wanted.cards or ()} == {"24", "16"}


def test_the_smallest_of_those_that_share_is_looked_at(needs: dict[str, float]) -> None:
    """A half that fits on the larger one alone is no reason to begin; a third is one for three."""
    needs |= {"alone": 32.0, "together": 36.0}
    cards = [card(0, 24), card(1, 16)]
    assert wanted_cards(box(*cards), run("auto"), cards, 0.0) == Wanted()
    three = [*cards, card(2, 12)]
    wanted = wanted_cards(box(*three), run("auto"), three, 0.0)
    assert wanted.ranks == Ranks(count=3, shard_base=True)


@pytest.mark.parametrize(("speed", "fits"), [("exact", [True, True]), ("fp8", [False, True])])
def test_a_card_without_fp8_is_no_card_for_it(
    speed: str, fits: list[bool], forecast: list[tuple[int, Ranks]]
) -> None:
    """Whatever memory it has; of cards that are alike, and of as many ranks, one is forecast."""
    kinds = [card(0).described, card(1, capability="8.9").described]
    asked, _ = _forecasts(box(), run(2, speed=speed))
    assert [asked(one, ALONE) for one in kinds] == fits
    forecast.clear()
    two = Ranks(count=2)
    for ranks in (ALONE, two, two):
        asked(card(3, 48, capability="8.9").described, ranks)
    assert forecast == [(48, ALONE), (48, two)]


@pytest.mark.usefixtures("forecast")
def test_a_base_is_shared_by_cards_that_can_all_do_it() -> None:
    """One without bf16 keeps it from the others."""
    _, shares = _forecasts(box(), run(2))
    old = replace(card(0).described, bf16=False)
    assert shares([card(0).described, card(1).described])
    assert not shares([card(0).described, old])


@pytest.fixture
def forecast(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Ranks]]:
    """Forecast that all fits; give what was asked: GiB of the card, and ranks."""
    asked: list[tuple[int, Ranks]] = []

    def fits_on(_spec: Any, _work: Any, known: Any) -> bool:
        asked.append((known.total_bytes // GIB, known.ranks))
        return True

    def known_box(_outputs: Any, _spec: Any, memory: GpuMemory, ranks: Ranks = ALONE) -> Any:
        return SimpleNamespace(total_bytes=memory.total_bytes, ranks=ranks, bf16=memory.bf16)

    monkeypatch.setattr(choose_cards, "read_work", lambda *_, **__: object())
    monkeypatch.setattr(choose_cards, "known_box", known_box)
    monkeypatch.setattr(choose_cards, "fits_on", fits_on)
    monkeypatch.setattr(choose_cards, "may_share", lambda _work, known: known.bf16)
    return asked


def test_auto_waits_for_a_lost_card_that_would_hold_it(needs: dict[str, float]) -> None:
    """Only where those that work do not: a lost one keeps no job back that fits without it."""
    needs |= {"alone": 32.0, "together": 32.0}
    cards = [card(0), card(1, problem="lost"), card(2)]
    assert wanted_cards(box(*cards), run("auto"), cards[:1], 0.0).lacks == ""
    cards[2].problem = "lost as well"
    lacks = wanted_cards(box(*cards), run("auto"), cards[:1], 0.0).lacks
    assert lacks.startswith("it needs 2 cards at once")
    needs["alone"] = 24.0
    assert wanted_cards(box(*cards), run("auto"), cards[:1], 0.0).lacks == ""


def cards_of(settings: Settings, *numbers: int) -> Cards:
    """Make a daemon's cards."""
    named = [NamedCard(number=str(n), asked_as=f"GPU-{n}", uuid=f"GPU-{n}") for n in numbers]
    return Cards(settings, named, say=lambda *_, **__: None, done=lambda: None)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A box's."""
    (tmp_path / "outputs" / ".runner").mkdir(parents=True)
    return Settings(
        jobs_dir=tmp_path / "jobs",
        outputs_dir=tmp_path / "outputs",
        models_dir=tmp_path / "models",
        device="cuda",
    )


def test_lost_cards_are_asked_last(settings: Settings) -> None:
    """So a run that waits says what it waits for on a card that works, and not which one is lost.

    The box as a whole has trouble only once no card is left.
    """
    cards = cards_of(settings, 0, 1, 2)
    for one, answer in zip(cards.all, (OFF_THE_BUS, WELL, OFF_THE_BUS), strict=True):
        one.guard.take(answer, 0.0)
    assert [one.named.number for one in cards.well_first() if one.named] == ["1", "0", "2"]
    assert cards.problem == ""
    assert set(cards.problems()) == {cards.all[0].title, cards.all[2].title}
    cards.all[1].guard.take(OFF_THE_BUS, 0.0)
    assert "fallen off the bus" in cards.problem


def test_the_driver_is_asked_after_one_of_several_was_lost(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows which: none takes a stage before it has told, and the run rests meanwhile.

    What it told ten seconds ago, when all were well, does not count.
    """
    cards = cards_of(settings, 0, 1)
    told: dict[str, Any] = {}
    monkeypatch.setattr(end, "keep_waiting", lambda *_, **more: told.update(more))
    for one in cards.all:
        monkeypatch.setattr(one.guard._aside, "ask", lambda _at: None)
        one.guard.take(WELL, 100.0)
        assert one.guard.standing_to_start(101.0, on_card=True).problem == ""
    monkeypatch.setattr(end.time, "monotonic", lambda: 101.0)
    live: Any = SimpleNamespace(trained_again_at=0.0)
    error: Any = SimpleNamespace(message="a card was lost")
    ended = Ended(code=ExitCode.GPU_LOST, asked=False, then=Next.HOLD, error=error)
    daemon: Any = SimpleNamespace()
    end._hold(daemon, live, ended, cards.all, None)
    assert live.trained_again_at == 101.0 + TRY_AGAIN_SECONDS
    assert told["again_at"] is not None
    for one in cards.all:
        assert not one.problem  # the driver has not said that it is lost
        with pytest.raises(StillAsking):
            one.guard.standing_to_start(101.5, on_card=True)
