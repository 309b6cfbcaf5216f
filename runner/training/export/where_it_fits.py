"""Where a model in 16 bits is measured: on the card, and on the processor where it has no room.

Who trains in 4 bits often has a card that cannot hold the same model in 16, in which it is served:
that must cost the measurement time, and never the merged weights.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from runner.words import memory

if TYPE_CHECKING:
    from runner.training.fit.model import Machine

T = TypeVar("T")

PROCESSOR_ROWS = 8
"""Held-out rows that are read there: a token of an 8B takes a processor some hundredths of a
second, so 8 rows of 500 tokens take minutes and 200 would take hours."""
_BESIDE_BYTES = 2 * 1024**3  # of the machine's memory, for libraries, logits and everybody else
_BYTES_OF_16_BITS, _BYTES_OF_32_BITS = 2, 4


def unless_memory_runs_out(step: Callable[[], T]) -> T | None:
    """Take a step; None: the card's memory ran out.

    Raises:
        Exception: whatever else the step raises.
    """
    from runner.training.fit.memory import Lost, classify, let_go

    try:
        return step()
    except Exception as error:  # what ran out may be wrapped by any library
        if classify(error) is not Lost.GPU_MEMORY:
            raise
        traceback.clear_frames(error.__traceback__)
    let_go()  # only here: inside an except the error still holds the tensors
    print("The card has no room for the model in 16 bits; the processor measures it.", flush=True)
    return None


def processor_for(weight_bytes: int) -> tuple[Machine | None, str]:
    """Give the processor, if the machine's memory holds a model there; else say what is missing.

    Args:
        weight_bytes: of the model in 16 bits.
    """
    from runner.training.fit.model import find_machine

    machine = find_machine("cpu")
    wide = machine.compute == "float32"
    needed = weight_bytes * (_BYTES_OF_32_BITS if wide else _BYTES_OF_16_BITS) // _BYTES_OF_16_BITS
    needed += _BESIDE_BYTES
    free = available_bytes()
    if free is None or free >= needed:
        return machine, ""
    return None, (
        f"the card has no room for the model in 16 bits, and on the processor it takes "
        f"{memory(needed)} of the machine's memory, of which {memory(free)} are free"
    )


def available_bytes() -> int | None:
    """Read what the host's memory has to give; None: it does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    except (OSError, ValueError, StopIteration):
        return None
