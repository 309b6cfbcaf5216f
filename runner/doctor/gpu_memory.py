"""Doctor: the memory of the card, and who holds it."""

from __future__ import annotations

from runner.card.memory import SMALL_SHARE, GpuMemory
from runner.doctor.finding import Finding, Level
from runner.words import GIB, memory, visible

NEEDED_BYTES = 2 * GIB  # CUDA's own share and the smallest model
_SHOWN = 3  # holders in a sentence
_WHY = "A run gets what others leave; one that does not fit waits, or runs slower in smaller steps."


def judge_gpu_memory(card: GpuMemory) -> Finding:
    """Decide whether others leave a run enough of the card."""
    total, free = memory(card.total_bytes), memory(card.free_bytes)
    share = f"{free} of {total} are free"
    who = ", ".join(
        f"{visible(holder.name)} (process {holder.pid}) {memory(holder.held_bytes)}"
        for holder in card.holders[:_SHOWN]
    )
    by = f"; held by {who}." if who else "; the driver does not show by whom the rest is held."
    if card.free_bytes < NEEDED_BYTES:
        return _finding(Level.TROUBLE, f"Only {share}{by}", _fix(card))
    if card.used_bytes > SMALL_SHARE * card.total_bytes:
        return _finding(Level.ADVICE, f"{share}{by}", _fix(card))
    return _finding(Level.OK, f"{share}." if not who else f"{share}{by}")


def _fix(card: GpuMemory) -> str:
    if not card.holders:
        return "nvidia-smi    # on the host: it names who holds the memory"
    return f"sudo kill {card.holders[0].pid}    # on the host, once its owner agrees"


def _finding(level: Level, what: str, fix: str = "") -> Finding:
    return Finding(check="GPU memory", level=level, what=what, why=_WHY, fix=fix)
