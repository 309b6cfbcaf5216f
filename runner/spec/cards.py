"""Cards that a spec asks for: refused where the box has fewer, with both numbers."""

from __future__ import annotations

from typing import Literal

from runner.errors import Problem


def cards_problem(wanted: int | Literal["auto"], cards: int | None) -> Problem | None:
    """Say that a box has fewer cards than a spec asks for; None: it has enough.

    Args:
        wanted: ``resources.gpus``; a processor will do where no more than one is asked for.
        cards: that the box trains on (RUNNER_GPUS), 0 where it has none; None: not known.
    """
    if cards is None or wanted == "auto" or wanted <= max(1, cards):
        return None
    message, hint = "this box has no card: its processor trains", "leave resources out"
    if cards:
        message = f"this box trains on {'one card' if cards == 1 else f'{cards} cards'}"
        hint = f"write gpus: {cards} or gpus: auto, or name more cards in RUNNER_GPUS in .env"
    return Problem(field="resources.gpus", found=str(wanted), message=message, hint=hint)
