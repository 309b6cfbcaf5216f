"""Rows of a batch as the fast path takes them: what went into the collator, without padding."""

from __future__ import annotations

import torch

from runner.training.fit.cut import _rows


def test_padding_costs_no_pass_anything() -> None:
    """A padded row would give the same numbers and take a larger part of a pass."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rows = [
        {"input_ids": list(range(2, 2 + length)), "labels": [-100, *range(3, 2 + length)]}
        for length in (3, 9, 1, 6)
    ]
    batch = DataCollatorForLanguageModeling(pad_token_id=0)(rows)
    assert batch["input_ids"].shape == (4, 9)
    found = _rows(batch, [len(row["input_ids"]) for row in rows], None)
    assert [(ids.tolist(), labels.tolist()) for ids, labels in found] == [
        (row["input_ids"], row["labels"]) for row in rows
    ]


def test_packed_rows_are_parted() -> None:
    """They lie in one line, one behind the other."""
    ids, labels = torch.arange(10).view(1, 10), torch.arange(10, 20).view(1, 10)
    found = _rows({"input_ids": ids, "labels": labels}, [], [3, 1, 6])
    assert [one.tolist() for one, _ in found] == [[0, 1, 2], [3], [4, 5, 6, 7, 8, 9]]
    assert [one.tolist() for _, one in found] == [[10, 11, 12], [13], [14, 15, 16, 17, 18, 19]]
