"""Packing: short rows share a sequence and the run is shorter, but no row sees another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ranks_box import Ranks
from train_box import ROWS, Run, assert_same_curve, in_a_child
from trouble import MemoryRunsOut

from runner.contract.stage_io import PrepareResult, write_message
from runner.exit_codes import ExitCode

LIMIT = 100  # tokens: two or three rows
SPEC = """\
model: small
data: rows.jsonl
training: {epochs: 2, effective_batch_size: 4, learning_rate: 1e-3, packing: true}
"""


@pytest.fixture(scope="module")
def packed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepare stage's folder, as a spec with packing leaves it."""
    folder = tmp_path_factory.mktemp("packed")
    for part in ("train", "eval", "tokenizer"):
        (folder / part).symlink_to(prepared / part)
    write_message(folder / "result.json", PrepareResult(max_length=LIMIT))
    return folder


def measure(models: str, prepared: str, output: str) -> None:
    """Be the child: measure packed rows, each row alone, and two ways to pack wrongly."""
    import torch
    from datasets import load_from_disk
    from transformers import AttentionInterface, AutoModelForCausalLM
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
    from trl.trainer.utils import add_fused_lm_head

    from runner.training.data.pack import attends_across, count_sequences, pack
    from runner.training.fit.collator import RowNotingCollator

    def load(attention: str) -> Any:
        model = AutoModelForCausalLM.from_pretrained(
            f"{models}/small", dtype=torch.float32, attn_implementation=attention
        )
        add_fused_lm_head(model)
        return model.eval()

    rows = load_from_disk(f"{prepared}/train")
    sequences = pack(rows, LIMIT)
    joined = RowNotingCollator(DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True))
    padded = RowNotingCollator(DataCollatorForLanguageModeling(pad_token_id=0))
    by_number = {row["row"]: row for row in rows}
    batch = [sequences[0], sequences[1]]
    numbers = [number for sequence in batch for number in sequence["row"]]
    model = load("sdpa")
    # Attention that knows no mask is what a kernel is that is not told where rows begin.
    AttentionInterface.register("unaware", sdpa_attention_forward)
    unaware = load("unaware")

    def learned(model: Any, collated: dict[str, Any]) -> float:
        return -float(model(**collated, use_cache=False, fused_lm_head=True).log_probs.sum())

    with torch.inference_mode():
        collated = joined.pad(batch)
        labels = collated.pop("labels")
        cached = model(**collated, use_cache=True).logits[:, :-1].log_softmax(-1)
        kept = labels[:, 1:] != -100
        picked = cached.gather(-1, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
        found = {
            "counted": count_sequences([len(ids) for ids in rows["input_ids"]], LIMIT),
            "made": len(sequences),
            "longest": max(len(ids) for ids in sequences["input_ids"]),
            "rows": sorted(number for sequence in sequences["row"] for number in sequence),
            "alone": sum(learned(model, padded.pad([by_number[n]])) for n in numbers),
            "packed": learned(model, joined.pad(batch)),
            "packed, with a cache": -float(picked[kept].sum()),
            "packed, unaware": learned(unaware, joined.pad(batch)),
        }
        one = {**sequences[0]}
        found["attends"] = attends_across(model, one, joined.pad)
        found["unaware attends"] = attends_across(unaware, one, joined.pad)
    Path(output).write_text(json.dumps(found))


def test_packed_rows_are_learned_as_if_alone(
    small_models: Path, prepared: Path, tmp_path: Path
) -> None:
    """Whole rows in fewer sequences, the same loss as alone; wrong ways to pack are noticed."""
    output = tmp_path / "found.json"
    in_a_child(measure, str(small_models), str(prepared), str(output))
    found = json.loads(output.read_text())
    assert found["counted"] == found["made"] < ROWS / 1.9
    assert found["longest"] <= LIMIT
    assert found["rows"] == list(range(ROWS))
    assert found["packed"] == pytest.approx(found["alone"], rel=1e-5)
    assert found["packed, with a cache"] != pytest.approx(found["alone"], rel=1e-3)
    assert found["packed, unaware"] != pytest.approx(found["alone"], rel=1e-3)
    assert (found["attends"], found["unaware attends"]) == (False, True)


def test_a_packed_run_survives_an_out_of_memory(
    packed: Path, small_models: Path, tmp_path: Path
) -> None:
    """Its sequences, steps and losses are the same at a halved plan; each row is learned once."""
    runs = [Run(tmp_path / name, packed, small_models, SPEC) for name in ("whole", "parts")]
    shape = {"effective": 4, "total_steps": 6}  # 12 sequences, two epochs
    assert runs[0].train(4, **shape)[0] == ExitCode.OK
    status, result = runs[1].train(4, trouble=MemoryRunsOut("backward", 3), **shape)
    assert (status, result.last_step) == (ExitCode.OUT_OF_GPU_MEMORY, 2)
    assert runs[1].train(2, **shape)[0] == ExitCode.OK
    assert_same_curve(runs[1].curve(), runs[0].curve())
    epoch = runs[0].curve()[: shape["total_steps"] // 2]
    assert sorted(row for line in epoch for row in line["rows"]) == list(range(ROWS))


def test_two_ranks_share_packed_rows(packed: Path, small_models: Path, tmp_path: Path) -> None:
    """Each takes whole sequences: the same curve as one rank's."""
    runs = [Run(tmp_path / name, packed, small_models, SPEC) for name in ("one", "two")]
    shape = {"effective": 4, "total_steps": 6}
    assert runs[0].train(2, **shape)[0] == ExitCode.OK
    status, _ = runs[1].train(2, ranks=2, trouble=Ranks(), **shape)
    assert status == ExitCode.OK, runs[1].log()
    assert_same_curve(runs[1].curve(), runs[0].curve(), rel=1e-5)
