"""Turns rows into rows to learn from and rows held out, by a stable hash of the prompt.

The hash sees nothing but the prompt: duplicates fall on the same side, and a row that is held out
stays so while the data grows around it.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from runner.training.data.conversation import Conversation


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


def split(conversations: Sequence[Conversation], share: float) -> Split:
    """Hold out the rows whose prompt's place lies below ``share``.

    Few rows may have none there; then the prompt with the lowest place is held out, so that small
    data is measured too, as long as another prompt is left to learn from.
    """
    places = [position(normalised_prompt(conversation)) for conversation in conversations]
    limit, borrowed = share, False
    if share > 0 and places and min(places) >= share and len(set(places)) > 1:
        limit, borrowed = sorted(set(places))[1], True
    held_out = tuple(i for i, place in enumerate(places) if place < limit and share > 0)
    train = tuple(i for i, place in enumerate(places) if place >= limit or share <= 0)
    return Split(train=train, held_out=held_out, borrowed=borrowed)


def shared_prompts(train: Sequence[Conversation], held_out: Sequence[Conversation]) -> int:
    """Count the held-out rows whose prompt is learned too: their loss flatters the run."""
    learned = {normalised_prompt(conversation) for conversation in train}
    return sum(normalised_prompt(conversation) in learned for conversation in held_out)
