"""What cards a run was trained on, as people are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.contract.cards_story import cards_story
from runner.contract.record import Attempt, CardUsed, RunRecord, read_record
from runner.language.speaker import Language, Speaker

RECORDS = Path(__file__).parents[1] / "data" / "records"
CARDS = tuple(CardUsed(number=number, name="RTX", uuid=f"GPU-{number}") for number in "01")


def record(*given: tuple[int, bool]) -> RunRecord:
    """Make a record of attempts on so many cards, which share the base or do not."""
    whole = read_record(RECORDS / "v2-94-cards.json")
    first = whole.attempts[0]

    def attempt(number: int, ranks: int, shard_base: bool) -> Attempt:  # noqa: FBT001
        changes: dict[str, Any] = {"number": number, "ranks": ranks, "shard_base": shard_base}
        return first.model_copy(update={**changes, "cards": CARDS[:ranks]})

    attempts = tuple(attempt(number, *one) for number, one in enumerate(given, start=1))
    return whole.but(attempts=attempts)


def test_nothing_is_said_of_a_run_on_one_card() -> None:
    """As ever, however often it was begun."""
    assert cards_story(record((1, False), (1, False))) == []
    assert cards_story(record()) == []


def test_the_cards_are_named_once() -> None:
    """However many attempts it had on them, and that they share the base."""
    assert cards_story(record((2, False), (2, False))) == [
        "Training: on 2 cards at once (GPU 0 (RTX), GPU 1 (RTX))."
    ]
    said = cards_story(record((2, True)), Speaker(Language.GERMAN))
    assert said == [
        "Training: auf 2 Grafikkarten zugleich (GPU 0 (RTX), GPU 1 (RTX)).",
        "Sie teilten sich das Basismodell: Keine von ihnen hat Platz für das ganze.",
    ]


def test_each_change_of_cards_is_told() -> None:
    """A run may go on on fewer cards, and on more."""
    assert cards_story(record((2, False), (2, False), (1, False), (2, False))) == [
        "Training from attempt 1 on: on 2 cards at once (GPU 0 (RTX), GPU 1 (RTX)).",
        "Training from attempt 3 on: on one card (GPU 0 (RTX)).",
        "Training from attempt 4 on: on 2 cards at once (GPU 0 (RTX), GPU 1 (RTX)).",
    ]
