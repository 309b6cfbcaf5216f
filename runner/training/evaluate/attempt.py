"""Attempt: a part of the evaluation that may fail without taking the rest with it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from runner.training.fit.memory import Lost, classify, let_go, plan_does_not_fit

_WHAT = {
    "answers": "Held-out questions could not be answered",
    "recital": "What the adapter recites could not be measured",
    "forgetting": "What was forgotten could not be measured",
}


def attempt(what: str, step: Callable[[], None], *, on_gpu: bool) -> list[str]:
    """Take a step; give what fell short of it, in a sentence.

    Args:
        what: `answers`, `recital` or `forgetting`.
        step: what is tried.
        on_gpu: whether memory may have run out on a card.

    Raises:
        Exception: the card, the machine's memory or the disk is gone: the stage is tried again.
    """
    why = ""
    try:
        step()
    except Exception as error:  # what the run is about stands without it
        lost = classify(error)
        if lost in (Lost.GPU, Lost.DISK, Lost.STORAGE):
            raise
        if plan_does_not_fit(lost, on_gpu=on_gpu):
            why = "memory ran out"
        elif lost is not None:
            raise
        else:
            why = type(error).__name__  # its words may quote a row
            print(f"{_WHAT[what]}:", file=sys.stderr)
            traceback.print_tb(error.__traceback__)
        traceback.clear_frames(error.__traceback__)
    if not why:
        return []
    let_go()  # only here: inside an except the error still holds the tensors
    return [f"{_WHAT[what]} ({why}); evaluate.log says more."]
