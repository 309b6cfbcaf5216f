"""Padding without a mask: what is learned from a row does not depend on its neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def test_a_mask_would_change_nothing(small_models: Path, prepared: Path) -> None:
    """A padded batch gives the same log-probabilities without a mask as with one."""
    import torch
    from datasets import load_from_disk
    from transformers import AutoModelForCausalLM
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from runner.training.fit.collator import RowNotingCollator

    model = AutoModelForCausalLM.from_pretrained(
        small_models / "small", dtype=torch.float32, attn_implementation="sdpa"
    )
    rows: list[dict[str, Any]] = list(load_from_disk(str(prepared / "train")))
    rows = [
        min(rows, key=lambda r: len(r["input_ids"])),
        max(rows, key=lambda r: len(r["input_ids"])),
    ]
    with_mask = DataCollatorForLanguageModeling(pad_token_id=0)
    masked = with_mask([{k: v for k, v in row.items() if k != "row"} for row in rows])
    plain = RowNotingCollator(with_mask).pad(rows)
    assert not masked["attention_mask"].all()  # there is padding
    assert plain["attention_mask"].all()
    learned = masked["labels"] != -100
    assert bool((plain["labels"] == masked["labels"]).all())
    with torch.no_grad():
        found = [
            model(input_ids=b["input_ids"], attention_mask=b["attention_mask"]).logits[learned]
            for b in (masked, plain)
        ]
    assert found[1].flatten().tolist() == pytest.approx(
        found[0].flatten().tolist(), rel=1e-4, abs=1e-5
    )
