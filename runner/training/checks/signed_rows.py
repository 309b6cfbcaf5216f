"""Signed rows: the signatures of the rows that are compared with each other, few of much data.

Many wait in a file, so that what is held in memory does not grow with the data. What is kept of too
many are those with the lowest keys (`near.sample`), whatever order they came in.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from runner.training.checks.near import SIGNED, lowest, sample
from runner.training.checks.thresholds import NEAR_ROWS

_IN_MEMORY = 20_000  # rows that are held before they go to the disk: 3 MB
_SAMPLED_FROM = 1.5  # times the rows that are compared: sorting them costs a third of a second
_ROWS_AT_ONCE = 16_384  # 2 MB


class SignedRows:
    """Signatures as they come."""

    def __init__(self, aside: Path | None = None) -> None:
        """Begin with none.

        Args:
            aside: a folder with room for a file, which has no name there and goes with this
                process; None: all of them stay in memory.
        """
        self._aside = aside
        self._held: list[np.ndarray] = []
        self._held_rows = self._spilled_rows = 0
        self._file: BinaryIO | None = None
        self._highest_key: int | None = None

    def __len__(self) -> int:
        return self._held_rows + self._spilled_rows

    @property
    def held(self) -> Sequence[np.ndarray]:
        """Those in memory: all of them, where there is no file."""
        return self._held

    def add(self, signed: np.ndarray) -> None:
        """Take more of them.

        Raises:
            OSError: the disk is full.
        """
        if self._highest_key is not None:  # there are enough with lower ones
            signed = signed[signed["key"] <= self._highest_key]
        self._held.append(signed)
        self._held_rows += len(signed)
        if self._aside is not None and self._held_rows >= _IN_MEMORY:
            self._spill(self._aside)
        if len(self) >= _SAMPLED_FROM * NEAR_ROWS.value:
            self._keep_lowest()

    def whole(self) -> np.ndarray:
        """Give those that are compared, in the order of their rows; large ones are a mapped file.

        Raises:
            OSError: the disk is full.
        """
        if len(self) > NEAR_ROWS.value:
            self._keep_lowest()
        if self._file is not None and self._aside is not None:
            self._spill(self._aside)
            found = self._mapped(self._file)
        else:
            found = np.concatenate([np.zeros(0, dtype=SIGNED), *self._held])
            self._held = [found]
        numbers = found["number"]
        if (numbers[1:] < numbers[:-1]).any():
            found = found[np.argsort(numbers, kind="stable")]
        return found

    def _spill(self, aside: Path) -> None:
        """Write what is held, and let it go. Written, not mapped: a full disk is an error then."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=aside)  # noqa: SIM115  it lives as long as this
            weakref.finalize(self, self._file.close)
        for part in self._held:
            self._file.write(np.ascontiguousarray(part).view(np.uint8).data)
        self._file.flush()
        self._spilled_rows += self._held_rows
        self._held, self._held_rows = [], 0

    def _mapped(self, file: BinaryIO) -> np.ndarray:
        if not self._spilled_rows:
            return np.zeros(0, dtype=SIGNED)
        return np.memmap(file, SIGNED, "r", shape=(self._spilled_rows,))

    def _keep_lowest(self) -> None:
        if self._file is None or self._aside is None:
            kept = sample(np.concatenate(self._held), int(NEAR_ROWS.value))
            self._held, self._held_rows = [kept], len(kept)
            self._highest_key = int(kept["key"].max())
            return
        self._spill(self._aside)
        found = self._mapped(self._file)
        places = np.sort(lowest(found, int(NEAR_ROWS.value)))
        self._highest_key = int(found["key"][places].max())
        for start in range(0, len(places), _ROWS_AT_ONCE):  # each moves towards the beginning
            rows = np.ascontiguousarray(found[places[start : start + _ROWS_AT_ONCE]])
            self._file.seek(start * SIGNED.itemsize)
            self._file.write(rows.view(np.uint8).data)
        del found
        self._file.truncate(len(places) * SIGNED.itemsize)
        self._file.seek(0, os.SEEK_END)
        self._spilled_rows = len(places)
