"""Collator: TRL's own, which also notes whose rows are in a micro-batch and how long they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from runner.training.fit.cut import LENGTHS, PACKED, ROWS, Rows


class RowNotingCollator:
    """TRL's collator, and a note of which rows went into each micro-batch, first in first out."""

    def __init__(
        self, inner: Callable[[list[dict[str, Any]]], dict[str, Any]], *, shared: bool = False
    ) -> None:
        """Wrap TRL's own; where several ranks share the rows, these go along."""
        self.inner, self.shared = inner, shared
        self.noted: deque[tuple[list[Any], int]] = deque()

    def pad(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate without a note.

        Padding comes after a row's own tokens, so causal attention never sees it and nothing is
        learned from it: a mask that says so would change no number, and would cost a matrix of
        length by length for each row and block, slower kernels and repeated keys.
        """
        batch = self.inner([{k: v for k, v in row.items() if k != "row"} for row in rows])
        if "attention_mask" in batch:
            batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
        return batch

    def with_lengths(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate, and say how long each row is: `CuttingTrainer` cuts by it."""
        whole = {**self.pad(rows), LENGTHS: [len(row["input_ids"]) for row in rows]}
        if rows and "seq_lengths" in rows[0]:
            whole[PACKED] = [length for row in rows for length in row["seq_lengths"]]
        return whole

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate and note."""
        numbers = [row["row"] for row in rows]  # of a packed sequence, a list
        flat = [n for number in numbers for n in (number if isinstance(number, list) else [number])]
        self.noted.append((flat, sum(len(row["input_ids"]) for row in rows)))
        whole = self.with_lengths(rows)
        return {**whole, ROWS: Rows(rows)} if self.shared else whole
