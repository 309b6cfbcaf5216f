"""Rows of a pass, one after the other without padding; how a batch is cut into passes."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from runner.training.kernels.dropout import Draws

FILL = 64  # tokens: a pass is filled up to a multiple, since products of odd sizes are slower
IGNORED = -100  # the label of a token that is not learned

Row = tuple[torch.Tensor, torch.Tensor]
"""Token ids and labels, on the host."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of one pass, on the device that trains."""

    ids: torch.Tensor
    host_ids: torch.Tensor
    """The same on the host."""
    position: torch.Tensor
    """Each token's place in its own row."""
    last: torch.Tensor
    """Where each token's own row ends: int32."""
    starts: torch.Tensor
    """Where each row starts, and the end of the last: int32, as attention kernels want it."""
    ends: tuple[int, ...]
    """The same on the host."""
    longest: int
    learned: torch.Tensor
    """Tokens whose successor is learned."""
    targets: torch.Tensor
    """Their successors."""
    draws: Draws | None = None
    """What adapters drop of their inputs; None: nothing."""

    @property
    def tokens(self) -> int:
        """Tokens of the pass, the filling included."""
        return self.ends[-1]


def lay_out(rows: Sequence[Row], device: Any, *, fill: bool) -> Rows:
    """Lay rows one after the other.

    Args:
        rows: each row's token ids and labels, on the host.
        device: where the model is.
        fill: add a row that nothing is learned from, up to a multiple of 64 tokens.
    """
    lengths = [row.numel() for row, _ in rows]
    ids = [row for row, _ in rows]
    nothing = torch.tensor([IGNORED])
    successors = [part for _, labels in rows for part in (labels[1:], nothing)]
    missing = -sum(lengths) % FILL if fill else 0
    if missing:
        lengths.append(missing)
        ids.append(torch.zeros(missing, dtype=torch.int64))
        successors.append(nothing.expand(missing))
    next_ones, host_ids = torch.cat(successors), torch.cat(ids)
    learned = (next_ones != IGNORED).nonzero()[:, 0]
    ends = (0, *itertools.accumulate(lengths))
    return Rows(
        ids=_move(host_ids, device),
        host_ids=host_ids,
        position=_move(
            torch.cat([torch.arange(length, dtype=torch.int32) for length in lengths]), device
        ),
        last=_move(
            torch.cat(
                [
                    torch.full((length,), end, dtype=torch.int32)
                    for length, end in zip(lengths, ends[1:], strict=True)
                ]
            ),
            device,
        ),
        starts=_move(torch.tensor(ends, dtype=torch.int32), device),
        ends=ends,
        longest=max(lengths),
        learned=_move(learned, device),
        targets=_move(next_ones[learned], device),
    )


def _move(tensor: torch.Tensor, device: Any) -> torch.Tensor:
    if torch.device(device).type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def divide(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Cut a batch into as few passes as hold at most ``most`` tokens each, nearly equal ones.

    Gives the rows' indices, pass by pass. A row that is longer by itself goes alone. Of many passes
    it may be a fiftieth more: each number of passes that is tried takes all rows once.
    """
    alone = [[i] for i, length in enumerate(lengths) if length > most]
    order = sorted((i for i, n in enumerate(lengths) if n <= most), key=lambda i: -lengths[i])
    halves = sum(2 * lengths[i] > most for i in order)  # no two of them share a pass
    count = max(1, halves, math.ceil(sum(lengths[i] for i in order) / most))
    while (passes := _dealt(order, lengths, count, most)) is None:
        count = min(len(order), count + max(1, count // 50))
    return [*alone, *(one for one in passes if one)]


def _dealt(
    order: Sequence[int], lengths: Sequence[int], count: int, most: int
) -> list[list[int]] | None:
    """Give each row in turn to the emptiest of so many passes; None: one would be too full."""
    passes: list[list[int]] = [[] for _ in range(count)]
    emptiest = [(0, number) for number in range(count)]
    for index in order:
        tokens, number = emptiest[0]
        tokens += lengths[index]
        if tokens > most:
            return None
        passes[number].append(index)
        heapq.heapreplace(emptiest, (tokens, number))
    return passes


def worst(lengths: Sequence[int], most: int, at_once: int) -> list[int]:
    """Choose the rows of a pass as large as any can be: the longest, filled up to the limit."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    chosen, tokens = order[:1], lengths[order[0]]
    for index in order[1:]:
        if len(chosen) == at_once:
            break
        if tokens + lengths[index] <= most:
            chosen.append(index)
            tokens += lengths[index]
    return chosen
