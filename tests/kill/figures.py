"""Turns what the kill tests tried into the figures of docs/reliability.md."""

from __future__ import annotations

from collections.abc import Mapping

KINDS = {
    "kills": "kills",
    "stops": "stops",
    "hangs": "hangs",
    "disk": "full disks",
    "torn": "torn files",
    "shares that": "silences of a share",
    "inputs": "inputs",
}
"""What a count's name begins with, and what it is called in the summary."""


class Figures:
    """Counts and facts by name; counts of several tests, and of several processes, add up."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._facts: dict[str, str] = {}

    def count(self, name: str, number: int = 1) -> None:
        """Add to a count; those whose name begins with one of ``KINDS`` make up the summary."""
        self._counts[name] = self._counts.get(name, 0) + number

    def tell(self, name: str, fact: str) -> None:
        """Tell a fact that does not add up."""
        self._facts[name] = fact

    def __setitem__(self, name: str, fact: str) -> None:
        self.tell(name, fact)

    def as_json(self) -> dict[str, int | str]:
        """Give all of it, for a file or another process."""
        return {**self._counts, **self._facts}

    def add_all(self, other: Mapping[str, int | str]) -> None:
        """Take over what another process found."""
        for name, value in other.items():
            if isinstance(value, int):
                self.count(name, value)
            else:
                self.tell(name, value)

    def lines(self) -> list[str]:
        """Tell each."""
        return [f"{name}: {value}" for name, value in sorted(self.as_json().items())]

    def summary(self, *, failed: int, skipped: int) -> str:
        """Tell all of it in one line; a failed test is one that saw something lost."""
        sums = {
            kind: sum(count for name, count in self._counts.items() if name.startswith(start))
            for start, kind in KINDS.items()
        }
        tried = ", ".join(f"{count:,} {kind}" for kind, count in sums.items() if count)
        lost = "lost: 0" if not failed else f"SOMETHING WAS LOST in {failed} tests"
        return f"tried: {tried or 'nothing'}; {lost}" + (f"; {skipped} skipped" * bool(skipped))
