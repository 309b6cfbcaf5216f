"""At start: what the doctor found out about the box, as far as the daemon goes by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runner.card.answer import Answer
from runner.contract.settings import Settings
from runner.daemon.log import Log


@dataclass(frozen=True, kw_only=True)
class AtStart:
    """What the daemon goes by."""

    polling: bool
    """Whether it must look at the inbox because no events tell of changes."""
    answer: Answer | None
    """The driver's; None: it could not be asked."""


Examine = Callable[[Settings, Log], AtStart | None]
"""Examines the box and logs what is not well; None: it could not."""
