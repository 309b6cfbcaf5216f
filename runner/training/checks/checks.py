"""Checks of the data: an accumulator that sees each row once as it flows by, and says at the end.

Each process may have one; `merge` makes one of two. What it keeps is 70 bytes for each row, and
144 more for each of those that are compared with each other; of much data both lie on the disk.
"""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path
from typing import BinaryIO

import numpy as np

from runner.contract.findings import DataFinding
from runner.training.checks.facts import FACTS, Facts, FactsOnDisk, facts_of
from runner.training.checks.near import sign
from runner.training.checks.row import SeenRow
from runner.training.checks.say import End, say
from runner.training.checks.signed_rows import SignedRows
from runner.training.checks.thresholds import NEAR_WORDS

_CHUNKS = 64  # of so many small columns one is made: a megabyte
_IN_MEMORY = 200_000  # rows that are held in memory before they go to the disk: 14 MB
_AT_ONCE = 256  # rows whose words are kept until they are signed: calls of many rows cost less


class Checks:
    """The accumulator."""

    def __init__(self, aside: Path | None = None) -> None:
        """Begin with no rows.

        Args:
            aside: a folder with room for what is kept of much data; the file has no name there and
                goes with this process.
        """
        self._aside = aside
        self._spilled: BinaryIO | None = None
        self._spilled_rows = self._held_rows = 0
        self._files: dict[str, int] = {}
        self._waiting: list[tuple[int, ...]] = []
        self._words: list[list[str]] = []
        self._signable: list[tuple[int, int]] = []
        self._facts: list[np.ndarray] = []
        self._signed = SignedRows(aside)

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
            self._add_facts(np.array(self._waiting, dtype=FACTS))
        numbers, keys = [n for n, _ in self._signable], [k for _, k in self._signable]
        self._signed.add(sign(self._words, numbers, keys))
        self._waiting, self._words, self._signable = [], [], []

    def _add_facts(self, facts: np.ndarray) -> None:
        """Keep rows; many small columns are joined, so that their memory can be given back."""
        self._facts.append(facts)
        self._held_rows += len(facts)
        if self._aside is not None and self._held_rows >= _IN_MEMORY:
            self._spill(self._aside)
        if len(self._facts) > _CHUNKS and all(
            len(one) <= _AT_ONCE for one in self._facts[-_CHUNKS:]
        ):
            joined = np.concatenate(self._facts[-_CHUNKS:])
            self._facts[-_CHUNKS:] = [joined]

    def _spill(self, aside: Path) -> None:
        """Write what is held of rows, and let it go."""
        if self._spilled is None:
            self._spilled = tempfile.TemporaryFile(dir=aside)  # noqa: SIM115  it lives as long as this
            weakref.finalize(self, self._spilled.close)
        for part in self._facts:
            self._spilled.write(np.ascontiguousarray(part).view(np.uint8).data)
        self._spilled.flush()
        self._spilled_rows += self._held_rows
        self._facts, self._held_rows = [], 0

    def _all_facts(self) -> Facts:
        """Give all rows in their order; those of much data stay on the disk."""
        if self._spilled is None:
            return self._in_one()
        assert self._aside is not None  # it was written there
        self._spill(self._aside)
        facts = FactsOnDisk(self._spilled, self._spilled_rows)
        numbers = facts["number"]
        if (numbers[1:] < numbers[:-1]).any():
            ordered: np.ndarray = np.array(facts.mapped())
            ordered.sort(order="number")
            return ordered
        return facts

    def _in_one(self) -> np.ndarray:
        """Put all rows into one array; each part is let go once it is copied."""
        if len(self._facts) != 1:
            whole: np.ndarray = np.empty(sum(map(len, self._facts)), dtype=FACTS)
            at = 0
            self._facts.reverse()
            while self._facts:
                part = self._facts.pop()
                whole[at : at + len(part)] = part
                at += len(part)
            self._facts = [whole]
        numbers = self._facts[0]["number"]
        if (numbers[1:] < numbers[:-1]).any():
            self._facts[0].sort(order="number")
        return self._facts[0]

    def merge(self, other: Checks) -> None:
        """Take over what another one has seen."""
        other.flush()
        places = [self._files.setdefault(file, len(self._files)) for file in other._files]
        renumbered = np.array(places or [0], dtype=np.uint32)
        for facts in other._facts:
            moved = facts.copy()
            moved["file"] = renumbered[facts["file"]]
            self._add_facts(moved)
        for signed in other._signed.held:
            self._signed.add(signed)

    def save(self, path: Path) -> None:
        """Write what is kept of the rows, to be read again by `load`."""
        self.flush()
        facts = self._all_facts()
        np.savez(
            path,
            files=np.array(list(self._files), dtype=str),
            facts=facts if isinstance(facts, np.ndarray) else facts.mapped(),
            signed=self._signed.whole(),
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
            made._signed.add(kept["signed"])
        return made

    def findings(self, end: End) -> list[DataFinding]:
        """Say what was found, in the order in which a person should read it."""
        self.flush()
        facts = self._all_facts()
        return say(facts, self._signed.whole(), files=list(self._files), end=end)
