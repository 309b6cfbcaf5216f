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

_SAMPLED_FROM = 1.5  # times the rows that are compared: sorting them costs a third of a second
_CHUNKS = 64  # of so many small columns one is made: a megabyte
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
        self._highest_key: int | None = None

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
        self._add_signed(sign(self._words, numbers, keys))
        self._waiting, self._words, self._signable = [], [], []

    def _add_signed(self, signed: np.ndarray) -> None:
        if self._highest_key is not None:  # there are enough with lower ones
            signed = signed[signed["key"] <= self._highest_key]
        self._signed.append(signed)
        self._signed_rows += len(signed)
        if self._signed_rows >= _SAMPLED_FROM * NEAR_ROWS.value:
            kept = sample(np.concatenate(self._signed))
            self._signed, self._signed_rows = [kept], len(kept)
            self._highest_key = int(kept["key"].max())

    def _add_facts(self, facts: np.ndarray) -> None:
        """Keep rows; many small columns are joined, so that their memory can be given back."""
        self._facts.append(facts)
        if len(self._facts) > _CHUNKS and all(
            len(one) <= _AT_ONCE for one in self._facts[-_CHUNKS:]
        ):
            joined = np.concatenate(self._facts[-_CHUNKS:])
            self._facts[-_CHUNKS:] = [joined]

    def _all_facts(self) -> np.ndarray:
        """Put all rows into one array, in their order; each part is let go once it is copied."""
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
        for signed in other._signed:
            self._add_signed(signed)

    def save(self, path: Path) -> None:
        """Write what is kept of the rows, to be read again by `load`."""
        self.flush()
        np.savez(
            path,
            files=np.array(list(self._files), dtype=str),
            facts=self._all_facts(),
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
        facts = self._all_facts()
        signed = sample(np.concatenate([np.zeros(0, dtype=SIGNED), *self._signed]))
        signed.sort(order="number")
        return say(facts, signed, files=list(self._files), end=end)
