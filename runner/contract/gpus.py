"""The setting RUNNER_GPUS: which cards train, each a job of its own: ``0,1``, ``all`` or UUIDs."""

from __future__ import annotations

import re

ALL = "all"
ALLOWED = "all, or numbers or UUIDs of cards as `nvidia-smi -L` shows them, each once, such as 0,1"
"""In words."""
_CARD = re.compile(r"\d{1,4}|(?:GPU|MIG)-[0-9A-Za-z/-]*")


def read_gpus(text: str) -> tuple[str, ...]:
    """Read the names of cards; ``("all",)`` for all of them, none for an empty text.

    Raises:
        ValueError: a name is none of a card, or one is named twice.
    """
    if not text.strip():
        return ()
    names = tuple(part.strip() for part in text.split(","))
    if names == (ALL,):
        return names
    if not all(_CARD.fullmatch(name) for name in names):
        raise ValueError(text)
    names = tuple(str(int(name)) if name.isdigit() else name for name in names)
    if len(set(names)) < len(names):
        raise ValueError(text)
    return names


def count_gpus(text: str) -> int | None:
    """Count the cards that the setting names; None: it does not say how many, or is nonsense."""
    try:
        names = read_gpus(text)
    except ValueError:
        return None
    return None if names in ((), (ALL,)) else len(names)
