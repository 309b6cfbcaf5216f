"""Known card: what a run was last planned for, kept for whoever has no driver to ask: the page."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, replace

from runner.card.memory import GpuMemory, from_json
from runner.contract.layout import Outputs
from runner.files.durable import write_json
from runner.files.plain import read_plain

_BYTES = 64 * 1024


def note_card(outputs: Outputs, gpu: GpuMemory | None) -> None:
    """Keep what the driver says of a card, where that is new; who uses it now is left out."""
    if gpu is None:
        return
    empty = replace(gpu, free_bytes=gpu.total_bytes, holders=())
    if read_card(outputs) == empty:
        return
    with contextlib.suppress(OSError):  # a full disk: forecasts are made without it then
        write_json(outputs.known_card, asdict(empty))


def read_card(outputs: Outputs) -> GpuMemory | None:
    """Read it; None: no run was planned for a card here yet."""
    try:
        return from_json(json.loads(read_plain(outputs.known_card, limit_bytes=_BYTES)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
