"""What cards a run was trained on, in sentences, where it trained on several at once."""

from __future__ import annotations

from itertools import groupby

from runner.contract.record_head import Attempt, CardUsed, RecordHead
from runner.language.speaker import ENGLISH, Speaker


def cards_story(record: RecordHead, speak: Speaker = ENGLISH) -> list[str]:
    """Tell of each number of cards; nothing of a run that never had more than one."""
    if all(attempt.ranks == 1 for attempt in record.attempts):
        return []
    groups = [list(alike) for _, alike in groupby(record.attempts, key=_kind)]
    told = []
    for alike in groups:
        first = alike[0]
        cards = speak(
            "cards_several" if first.ranks > 1 else "cards_one",
            count=first.ranks,
            names=", ".join(map(title_of, first.cards)) or "?",
        )
        if len(groups) == 1:
            told.append(speak("cards_trained", cards=cards))
        else:
            told.append(speak("cards_trained_attempt", number=first.number, cards=cards))
        if first.shard_base:
            told.append(speak("cards_shared_base"))
    return told


def _kind(attempt: Attempt) -> tuple[int, bool, tuple[str, ...]]:
    return attempt.ranks, attempt.shard_base, tuple(map(title_of, attempt.cards))


def title_of(card: CardUsed) -> str:
    """Name a card as people do: ``GPU 1 (NVIDIA GeForce RTX 4090)``."""
    return f"GPU {card.number} ({card.name})" if card.name else f"GPU {card.number}"
