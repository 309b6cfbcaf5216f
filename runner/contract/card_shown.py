"""Cards as the heartbeat shows them, where a box has several: which run works on which card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from runner.clock import this_boot
from runner.contract.layout import Outputs
from runner.files.lock import Lock
from runner.files.plain import read_plain

HEARTBEAT_BYTES = 1024 * 1024
"""Of the daemon's heartbeat: a card takes up to 700 bytes, and 64 boxes of eight have 512."""


@dataclass(frozen=True, kw_only=True)
class CardShown:
    """One card."""

    title: str
    """Such as ``GPU 1 (NVIDIA GeForce RTX 4090)``."""
    uuid: str = ""
    job: str = ""
    """At work on it; empty: none."""
    run_id: str = ""
    problem: str = ""
    """Why nothing starts on it; empty: something may."""


def read_cards(outputs: Outputs) -> tuple[CardShown, ...]:
    """Read what the daemon last said; nothing where none runs, or where it has one card."""
    try:
        if not Lock.is_held(outputs.lock):
            return ()
        beat = json.loads(read_plain(outputs.heartbeat, limit_bytes=HEARTBEAT_BYTES))
    except (OSError, ValueError, RecursionError):
        return ()
    return cards_in(beat) if isinstance(beat, dict) else ()


def cards_in(heartbeat: Mapping[str, Any]) -> tuple[CardShown, ...]:
    """Find the cards in a heartbeat; one from before the machine's start tells of none."""
    found = heartbeat.get("cards")
    if not isinstance(found, list) or heartbeat.get("boot") != this_boot():
        return ()
    names = {field.name for field in fields(CardShown)}
    return tuple(
        CardShown(**{name: str(one.get(name, "")) for name in names})
        for one in found
        if isinstance(one, dict)
    )
