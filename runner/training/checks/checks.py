"""Checks of the data: an accumulator that sees each row once as it flows by, and says at the end.

Each process may have one; `merge` makes one of two. What it keeps is 70 bytes for each row, and
128 more for each of those that are compared with each other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runner.contract.findings import DataFinding
from runner.training.checks.facts import FACTS, facts_of
from runner.training.checks.near import SIGNED, sample, sign
from runner.training.checks.row import SeenRow
from runner.training.checks.say import End, say
from runner.training.checks.thresholds import NEAR_ROWS, NEAR_WORDS

_AT_ONCE = 256  # rows whose words are kept until they are signed: calls of many rows cost less


class Checks:
    """The accumulator."""

    def __init__(self) -> None:
        """Begin with no rows."""
        self._files: dict[str, int] = {}
        self._waiting: list[tuple[int, ...]] = []
        self._words: list[list[str]] = []
        self._signable: list[tuple[int, int]] = []
        self._facts: list[np.ndarray] = []
        self._signed: list[np.ndarray] = []
        self._signed_rows = 0

    def see(self, row: SeenRow) -> None:
        """Take what is kept of a row."""
        kept, words = facts_of(row, self._files.setdefault(row.file, len(self._files)))
        self._waiting.append(kept)
        if len(words) >= NEAR_WORDS.value:
            self._words.append(words)
            self._signable.append((row.number, kept[-1]))
        if len(self._waiting) >= _AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Put what waits into columns; before an accumulator is sent to another process."""
        if self._waiting:
            self._facts.append(np.array(self._waiting, dtype=FACTS))
        numbers, keys = [n for n, _ in self._signable], [k for _, k in self._signable]
        self._add_signed(sign(self._words, numbers, keys))
        self._waiting, self._words, self._signable = [], [], []

    def _add_signed(self, signed: np.ndarray) -> None:
        self._signed.append(signed)
        self._signed_rows += len(signed)
        if self._signed_rows >= 2 * NEAR_ROWS.value:
            kept = sample(np.concatenate(self._signed))
            self._signed, self._signed_rows = [kept], len(kept)

    def merge(self, other: Checks) -> None:
        """Take over what another one has seen."""
        other.flush()
        places = [self._files.setdefault(file, len(self._files)) for file in other._files]
        renumbered = np.array(places or [0], dtype=np.uint32)
        for facts in other._facts:
            moved = facts.copy()
            moved["file"] = renumbered[facts["file"]]
            self._facts.append(moved)
        for signed in other._signed:
            self._add_signed(signed)

    def save(self, path: Path) -> None:
        """Write what is kept of the rows, to be read again by `load`."""
        self.flush()
        np.savez(
            path,
            files=np.array(list(self._files), dtype=str),
            facts=np.concatenate([np.zeros(0, dtype=FACTS), *self._facts]),
            signed=np.concatenate([np.zeros(0, dtype=SIGNED), *self._signed]),
        )

    @classmethod
    def load(cls, path: Path) -> Checks:
        """Read what `save` wrote.

        Raises:
            ValueError: it is something else.
        """
        made = cls()
        with np.load(path, allow_pickle=False) as kept:
            made._files = {str(name): at for at, name in enumerate(kept["files"])}
            made._facts = [kept["facts"]]
            made._add_signed(kept["signed"])
        return made

    def findings(self, end: End) -> list[DataFinding]:
        """Say what was found, in the order in which a person should read it."""
        self.flush()
        facts = np.concatenate([np.zeros(0, dtype=FACTS), *self._facts])
        facts.sort(order="number")
        signed = sample(np.concatenate([np.zeros(0, dtype=SIGNED), *self._signed]))
        signed.sort(order="number")
        return say(facts, signed, files=list(self._files), end=end)
