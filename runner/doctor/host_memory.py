"""Doctor: whether the machine's memory is enough, and what this container may take of it."""

from __future__ import annotations

from runner.card.host_memory import HostMemory
from runner.doctor.finding import Finding, Level
from runner.words import GIB, memory

ADVISED_BYTES = 32 * GIB
_ALMOST = 0.9  # a machine sold with 32 GiB shows less: firmware and kernel keep some of it
NEEDED_BYTES = 2 * GIB  # libraries, a small model and its rows; a start below that is killed
_WHY = "Weights and rows pass through it on their way to the card; a stage that runs out is killed."


def judge_host_memory(facts: HostMemory) -> Finding:
    """Decide whether it is enough."""
    usable = facts.limit_bytes or facts.total_bytes
    whole = f"{memory(usable)} of memory"
    if facts.limit_bytes:
        whole += f" for this container ({memory(facts.total_bytes)} in the machine)"
    if min(usable, facts.available_bytes) < NEEDED_BYTES:
        return Finding(
            check="Host memory",
            level=Level.TROUBLE,
            what=f"Only {memory(min(usable, facts.available_bytes))} are free of {whole}.",
            why=_WHY,
            fix="ps aux --sort=-rss | head    # who holds it",
        )
    if usable < _ALMOST * ADVISED_BYTES:
        return Finding(
            check="Host memory",
            level=Level.ADVICE,
            what=f"{whole}; {ADVISED_BYTES // GIB} GiB are advised.",
            why=_WHY + " Small models do with less.",
            fix="docker stats --no-stream    # raise its LIMIT where it was set"
            if facts.limit_bytes
            else "free -h    # add memory, or choose a smaller model",
        )
    return Finding(check="Host memory", level=Level.OK, what=f"{whole}.", why=_WHY)
