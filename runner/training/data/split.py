"""Held-out rows: which rows are kept from training to measure it, by a hash of their prompt.

The hash sees nothing but the prompt: duplicates fall on the same side, and a row that is held out
stays so while the data grows around it.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    import numpy as np

    places = np.array([position(normalised_prompt(c)) for c in conversations], "float64")
    held, borrowed = hold_out(places, share)
    return Split(
        train=tuple(np.flatnonzero(~held).tolist()),
        held_out=tuple(np.flatnonzero(held).tolist()),
        borrowed=borrowed,
    )


def hold_out(places: Any, share: float | None) -> tuple[Any, bool]:
    """Choose the rows that are held out by the places of their prompts, as `split` does.

    Returns:
        By row, whether it is held out; and whether the one nearest to the share was taken.
    """
    import numpy as np

    if share == 0 or not len(places):
        return np.zeros(len(places), bool), False
    found, counts = np.unique(places, return_counts=True)
    chosen = _below(found, share) if share is not None else _enough(found, counts)
    borrowed = not chosen.any() and len(found) > 1
    if borrowed:
        chosen[0] = True
    return chosen[np.searchsorted(found, places)], borrowed


def _below(found: Any, share: float) -> Any:
    chosen = found < share
    return chosen & False if chosen.all() else chosen  # nothing would be left to learn from


def _enough(found: Any, counts: Any) -> Any:
    """Choose the lowest places until the rows are enough; never more than a fifth of all rows.

    From 2,000 rows on it is those below 5%, so growing data moves none; below that, growing data
    may move a row from held out to learned, and below 500 rows, rarely, the other way.
    """
    import numpy as np

    most = int(MOST_SHARE * counts.sum())
    chosen: Any = np.zeros(len(found), bool)
    held = 0
    for at, (place, rows) in enumerate(zip(found, counts, strict=True)):  # lists take 70 bytes each
        if place >= USUAL_SHARE and held >= ENOUGH_ROWS:
            break
        if held + rows <= most:
            chosen[at] = True
            held += rows
    return chosen
