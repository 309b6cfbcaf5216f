"""Held-out rows: which rows are kept from training to measure it, by a hash of their prompt.

The hash sees nothing but the prompt: duplicates fall on the same side, and a row that is held out
stays so while the data grows around it.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from runner.training.data.conversation import Conversation

USUAL_SHARE = 0.05
ENOUGH_ROWS = 100  # 40 rows cannot show a difference under 24 points (contract/verdict.py)
MOST_SHARE = 0.2  # what is held out is not learned


def normalised_prompt(conversation: Conversation) -> str:
    """Give what the person asked, without differences of case, spacing or Unicode form."""
    asked: list[str] = []
    for message in conversation.messages:
        if message["role"] == "assistant" and asked:
            break
        if message["role"] != "system":
            asked.append(message["content"])
    text = unicodedata.normalize("NFKC", "\n".join(asked) or conversation.text or "")
    return " ".join(text.casefold().split())


def position(prompt: str) -> float:
    """Give the prompt's fixed place between 0 and 1."""
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclass(frozen=True, kw_only=True)
class Split:
    """Indices into the conversations that were given."""

    train: tuple[int, ...]
    held_out: tuple[int, ...]
    borrowed: bool = False
    """No prompt fell below the share, so the one nearest to it was taken."""


def split(conversations: Sequence[Conversation], share: float | None) -> Split:
    """Hold out the rows whose prompt's place is lowest.

    Few rows may have none below the share; then the prompt with the lowest place is held out, so
    that small data is measured too, as long as another prompt is left to learn from.

    Args:
        conversations: all rows.
        share: places below it are held out. None: 5% of the rows, but at least 100 where that is
            at most 20% of them: fewer show only large differences.
    """
    places = [position(normalised_prompt(conversation)) for conversation in conversations]
    chosen = _below(places, share) if share is not None else _enough(places)
    borrowed = False
    if share != 0 and not chosen and len(set(places)) > 1:
        chosen, borrowed = {min(places)}, True
    return Split(
        train=tuple(i for i, place in enumerate(places) if place not in chosen),
        held_out=tuple(i for i, place in enumerate(places) if place in chosen),
        borrowed=borrowed,
    )


def _below(places: Sequence[float], share: float) -> set[float]:
    chosen = {place for place in places if place < share}
    return set() if chosen == set(places) else chosen  # nothing would be left to learn from


def _enough(places: Sequence[float]) -> set[float]:
    """Choose the lowest places until the rows are enough; never more than a fifth of all rows.

    From 2,000 rows on it is those below 5%, so growing data moves none; below that, growing data
    may move a row from held out to learned, and below 500 rows, rarely, the other way.
    """
    rows = Counter(places)
    most = int(MOST_SHARE * len(places))
    chosen: set[float] = set()
    held = 0
    for place in sorted(rows):
        if place >= USUAL_SHARE and held >= ENOUGH_ROWS:
            break
        if held + rows[place] <= most:
            chosen.add(place)
            held += rows[place]
    return chosen


def shared_prompts(train: Sequence[Conversation], held_out: Sequence[Conversation]) -> int:
    """Count the held-out rows whose prompt is learned too: their loss flatters the run."""
    learned = {normalised_prompt(conversation) for conversation in train}
    return sum(normalised_prompt(conversation) in learned for conversation in held_out)
