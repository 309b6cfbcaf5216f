"""Cards of this box, as its agent tells the head of them: asked for in a thread of their own.

A driver that hangs must not keep the box from hearing that a stage is to end.
"""

from __future__ import annotations

import os
import threading
from dataclasses import asdict

from runner.card.answer import Gpu, meaning
from runner.card.ask import ask_driver, expects_gpu
from runner.card.find_cards import NamedCard, find_cards
from runner.card.memory import read_gpu
from runner.contract.cluster import BoxCard
from runner.contract.settings import Settings

ASK_SECONDS = 10.0  # between two questions: a process each, and free memory changes by the minute
_PROCESSOR = BoxCard()


class Cards:
    """The newest answers."""

    def __init__(self, settings: Settings) -> None:
        """Find the cards that RUNNER_GPUS names.

        Raises:
            SettingError: a card is not there.
        """
        self._settings = settings
        self._named = find_cards(settings.gpus, os.environ) if settings.device != "cpu" else []
        self.now: tuple[BoxCard, ...] = self._ask()

    def watch(self) -> None:
        """Ask time and again, until the process ends."""
        if self._settings.device != "cpu":
            threading.Thread(target=self._watch, name="cards", daemon=True).start()

    def refresh(self) -> None:
        """Ask at once: a stage has just given back its memory."""
        if self._settings.device != "cpu":
            self.now = self._ask()

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(ASK_SECONDS):
            self.now = self._ask()

    def _ask(self) -> tuple[BoxCard, ...]:
        if self._settings.device == "cpu":
            return (_PROCESSOR,)
        if self._named:
            return tuple(_named(card) for card in self._named)
        answer = ask_driver()
        found = None if answer is None else meaning(answer, expected=expects_gpu(os.environ))
        if answer is None or found is None:
            return (BoxCard(problem="the driver could not be asked"),)
        if found.gpu is Gpu.NONE:
            return (_PROCESSOR,)
        if found.gpu is not Gpu.WELL or not answer.cards:
            return (BoxCard(problem=found.message or "the driver names no card"),)
        card = answer.cards[0]
        return (_named(NamedCard(number="0", asked_as=card.uuid or "0", uuid=card.uuid)),)


def _named(card: NamedCard) -> BoxCard:
    memory = read_gpu(card.asked_as)
    return BoxCard(
        number=card.number,
        uuid=card.uuid or card.asked_as,
        name=memory.name if memory else card.model,
        memory=asdict(memory) if memory else None,
        problem="" if memory else "its driver does not answer",
    )
