"""Packing: short rows in sequences of nearly equal length, none of which sees its neighbours.

Prepare counts the sequences and train makes them, both through TRL's own packing.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

DIFFERS = 0.01  # nats of one token: far above rounding, far below what a seen neighbour changes


def count_sequences(lengths: Sequence[int], limit: int) -> int:
    """Count the sequences of at most ``limit`` tokens that rows of these lengths become."""
    # What TRL does (best fit, the longest first), by lengths alone: of 10 GB of rows the tokens
    # themselves would not fit into memory.
    room: list[int] = []  # tokens that sequences still have room for, in order, each number once
    with_room: Counter[int] = Counter()  # how many sequences have so much
    sequences = 0
    for length in np.sort(np.asarray(lengths, "int64"))[::-1]:
        at = bisect_left(room, length)
        if at == len(room):
            sequences += 1
            left = limit - int(length)
        else:
            left = room[at] - int(length)
            with_room[room[at]] -= 1
            if not with_room[room[at]]:
                del room[at]
        if left > 0:
            if not with_room[left]:
                insort(room, left)
            with_room[left] += 1
    return sequences


def pack(rows: Any, limit: int) -> Any:
    """Join rows into sequences of at most ``limit`` tokens; no row is cut.

    Args:
        rows: a data set with ``input_ids``, ``labels`` and ``row``, none longer than the limit.
        limit: tokens.

    Returns:
        A data set with ``seq_lengths`` added; ``row`` is then a list. All of it is in memory: rows
        of data are not written anywhere but in prepared/.
    """
    import datasets

    datasets.disable_progress_bars()
    # Packing joins lists of equal lengths only: a row's number travels with each of its tokens.
    numbered = rows.map(
        lambda row: {"row": [row["row"]] * len(row["input_ids"])}, keep_in_memory=True
    )
    return _pack(numbered, limit).map(
        lambda sequence: {
            "row": [
                sequence["row"][end - length]
                for end, length in zip(
                    itertools.accumulate(sequence["seq_lengths"]),
                    sequence["seq_lengths"],
                    strict=True,
                )
            ]
        },
        keep_in_memory=True,
    )


def _pack(rows: Any, limit: int) -> Any:
    from trl.data_utils import pack_dataset

    return pack_dataset(rows, seq_length=limit, strategy="bfd", map_kwargs={"keep_in_memory": True})


def attends_across(
    model: Any, sequence: dict[str, Any], collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
) -> bool:
    """Whether a row in a sequence sees the row before it: what that one says must not matter.

    Args:
        model: the model that will train, with TRL's fused head.
        sequence: one packed sequence of at least two rows.
        collate: what makes its batch in training.
    """
    import torch

    from runner.training.fit.heldout import on_device

    first = sequence["seq_lengths"][0]
    ids = list(sequence["input_ids"])
    swapped = [*reversed(ids[:first]), *ids[first:]]
    found = []
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for tokens in (ids, swapped):
                # All are learned, or there might be nothing to compare.
                batch = collate([{**sequence, "input_ids": tokens, "labels": tokens}])
                moved = on_device(batch, model.device)
                said = model(**moved, use_cache=False, fused_lm_head=True).log_probs
                found.append(said.flatten()[first:])
    finally:
        model.train(was_training)
    return bool((found[0] - found[1]).abs().max() > DIFFERS)
