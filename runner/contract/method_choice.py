"""Method choice: 16 bits or 4, which the box decides where a spec says `method: auto`, and why.

An adapter is served on the base that it was trained on or does less well; most servers load the
base in 16 bits.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from runner.contract.model_kind import Method
from runner.language.speaker import ENGLISH, Speaker

MOST_TIMES = 1.5
"""How much longer than in 4 bits a run may take in 16 to be chosen. What is gained was measured:
of 30 held-out answers of one small model, 30 were in form on the 4-bit base that the adapter was
trained on, and 6 on the base in 16 bits."""

Why = Literal[
    "fits",
    "no_room",
    "ran_out",
    "slower",
    "fp8",
    "base",
    "goes_on",
    "as_in_use",
    "no_card",
    "short",
    "did_not_fit",
    "unknown",
]


class MethodChoice(BaseModel):
    """What was chosen, and what it was chosen by."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    method: Method
    why: Why
    """``fits``, ``no_room`` and ``slower`` speak of 16 bits; ``ran_out``: 16 would fit by the
    forecast, and a run that needs no more did not; ``short``: of the machine's memory;
    ``did_not_fit``: 16 bits were chosen, tried and given up."""
    needed_bytes: int | None = None
    """What 16 bits take of the card, or of the machine."""
    limit_bytes: int | None = None
    """What a run may take of it."""
    times: float | None = None
    """The time in 16 bits over the time in 4; None: not known."""


def method_in(choice: MethodChoice, speak: Speaker = ENGLISH) -> str:
    """Say what was chosen and why, in one line."""
    known = {
        "needed": speak.memory(choice.needed_bytes),
        "limit": speak.memory(choice.limit_bytes),
        "times": speak.number(choice.times or 1.0, ".1f"),
    }
    return speak(f"method_{choice.why}", **known)
