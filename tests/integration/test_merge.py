"""Merged weights are what plain PEFT merges, on both bases; a merge that lost its adapter shows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from runner.training.export.base_weights import NotMergeableError
from runner.training.export.merge import (
    merge,
    plan_merge,
    require_memory,
    require_room,
)
from runner.training.export.nf4_weights import nf4_weights

pytestmark = pytest.mark.filterwarnings("ignore")  # of the stack
TINY: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama tied": ({"model_type": "llama", "tie_word_embeddings": True}, {}),
    "qwen biases": ({"model_type": "qwen2", "tie_word_embeddings": False}, {"r": 4}),
    "rslora": ({"model_type": "llama", "tie_word_embeddings": False}, {"use_rslora": True}),
    "a head": (
        {"model_type": "llama", "tie_word_embeddings": False},
        {"target_modules": ["q_proj", "lm_head"]},
    ),
    "some layers": ({"model_type": "mistral"}, {"target_modules": ["q_proj", "down_proj"]}),
}
"""Config of the base, and what is special about the adapter."""


def base_and_adapter(root: Path, shape: str, *, shard: str = "60KB") -> tuple[Path, Path]:
    """Make a random base in several files, and an adapter that changes it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    of_base, of_adapter = SHAPES[shape]
    torch.manual_seed(3)
    config = AutoConfig.for_model(**{**TINY, **of_base})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data.normal_()
    model.save_pretrained(root / "base", max_shard_size=shard)
    wanted = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", **of_adapter}
    adapted = get_peft_model(model.float(), LoraConfig(task_type="CAUSAL_LM", **wanted))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.05)
    adapted.save_pretrained(root / "adapter")
    return root / "base", root / "adapter"


def by_peft(base: Path, adapter: Path, *, nf4: bool) -> dict[str, Any]:
    """Merge with plain PEFT, in fp32; on the base in NF4, unpacked by transformers first."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options: dict[str, Any] = {"dtype": torch.float32, "device_map": {"": "cpu"}}
    if nf4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
    model = AutoModelForCausalLM.from_pretrained(base, **options)
    if nf4:
        model = model.dequantize(torch.float32)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return dict(merged.state_dict())


@pytest.mark.parametrize("nf4", [False, True])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_it_is_what_plain_peft_merges(tmp_path: Path, shape: str, nf4: bool) -> None:  # noqa: FBT001
    """Every weight equals plain PEFT's merge in fp32, rounded to the base's 16 bits once."""
    import torch
    from transformers import AutoModelForCausalLM

    base, adapter = base_and_adapter(tmp_path, shape)
    plan = plan_merge(base, adapter, name="tiny")
    assert len(plan.weights.files) > 2
    target = tmp_path / "merged"
    target.mkdir()
    packed = nf4_weights(base, compute="float32") if nf4 else frozenset()
    merge(plan, target, nf4=packed, compute="float32", device="cpu")
    model, told = AutoModelForCausalLM.from_pretrained(
        target, dtype=torch.bfloat16, output_loading_info=True
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    wanted = by_peft(base, adapter, nf4=nf4)
    ours = model.state_dict()
    assert ours.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert ours[name].dtype == torch.bfloat16
        # An fp32 sum in another order may fall on the other side of a bf16 step.
        torch.testing.assert_close(ours[name].float(), weight.float(), rtol=2**-7, atol=1e-6)
    changed = [n for n in wanted if "q_proj.weight" in n]
    assert all(not torch.equal(ours[n], plain(base)[n]) for n in changed)
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == plan.bytes
    config = json.loads((target / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == "bfloat16"
    assert "quantization_config" not in config


@pytest.mark.parametrize(
    ("kind", "written", "shard"),
    [
        ("float16", "float16", "60KB"),
        ("float32", "bfloat16", "1GB"),
        ("float32", "bfloat16", "60KB"),
    ],
)
def test_other_number_formats_of_a_base(
    tmp_path: Path, kind: str, written: str, shard: str
) -> None:
    """fp16 stays so, fp32 becomes bf16; in one file or several; all names in config.json agree."""
    import torch
    from transformers import AutoModelForCausalLM

    base, adapter = base_and_adapter(tmp_path, "qwen biases", shard=shard)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, kind))
    shutil.rmtree(base)
    model.save_pretrained(base, max_shard_size=shard)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "dtype": kind, "torch_dtype": kind}))
    target = tmp_path / "merged"
    target.mkdir()
    plan = plan_merge(base, adapter, name="tiny")
    merge(plan, target, nf4=frozenset(), compute="float32", device="cpu")
    config = json.loads((target / "config.json").read_text())
    assert (config["dtype"], config["torch_dtype"]) == (written, written)
    ours = AutoModelForCausalLM.from_pretrained(target, dtype="auto").state_dict()
    for name, weight in by_peft(base, adapter, nf4=False).items():
        assert ours[name].dtype == getattr(torch, written)
        torch.testing.assert_close(ours[name].float(), weight, rtol=2**-7, atol=1e-6)
    assert sum(path.stat().st_size for path in target.glob("*.safetensors")) >= plan.bytes


@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "bfloat16"), (1e6, "float16")])
def test_weights_that_are_no_numbers_are_not_written(
    tmp_path: Path, value: float, kind: str
) -> None:
    """A damaged adapter, or sums that a base in fp16 cannot hold: said with the weight's name."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    base, adapter = base_and_adapter(tmp_path, "llama tied")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, kind))
    shutil.rmtree(base)
    model.save_pretrained(base)
    at = adapter / "adapter_model.safetensors"
    weights = load_file(at)
    broken = next(name for name in weights if "lora_B" in name)
    weights[broken][0, 0] = value
    save_file(weights, at)
    (tmp_path / "merged").mkdir()
    with pytest.raises(NotMergeableError, match="values that are no numbers"):
        merge(
            plan_merge(base, adapter, name="tiny"),
            tmp_path / "merged",
            nf4=frozenset(),
            compute="float32",
            device="cpu",
        )


def plain(base: Path) -> dict[str, Any]:
    """Load the base's own weights."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    return dict(model.state_dict())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One base and adapter for what is refused."""
    return base_and_adapter(tmp_path_factory.mktemp("made"), "llama tied")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"fan_in_fan_out": True}, "Conv1D"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"alora_invocation_tokens": [3]}, "aLoRA"),
        ({"use_qalora": True}, "use_qalora"),
        ({"of_a_later_peft": True}, "of_a_later_peft"),
        ({"r": 4}, "not of rank 4"),
        ({"r": 0}, "does not say r"),
        ({"r": "eight"}, "does not say r"),
        ({"lora_alpha": None}, "does not say r and lora_alpha"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    made: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    """A kind of adapter that would be merged wrong is named, and nothing is written."""
    adapter = tmp_path / "adapter"
    shutil.copytree(made[1], adapter)
    at = adapter / "adapter_config.json"
    at.write_text(json.dumps({**json.loads(at.read_text()), **changes}))
    with pytest.raises(NotMergeableError, match=says):
        plan_merge(made[0], adapter, name="tiny")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b"[8]"),
        ("adapter_model.safetensors", b""),
        ("adapter_model.safetensors", b"\xff" * 64),
        ("adapter_model.safetensors", None),
    ],
)
def test_a_damaged_adapter_is_said_to_be(
    made: tuple[Path, Path], tmp_path: Path, file: str, content: bytes | None
) -> None:
    """In a sentence that names the file, and not as a traceback of a library."""
    adapter = tmp_path / "adapter"
    shutil.copytree(made[1], adapter)
    if content is None:
        (adapter / file).unlink()
    else:
        (adapter / file).write_bytes(content)
    with pytest.raises(NotMergeableError, match=f"adapter/{file}"):
        plan_merge(made[0], adapter, name="tiny")


def test_another_head_than_the_bases_is_not_left_out(tmp_path: Path) -> None:
    """PEFT saves the base's head beside an adapter on it, and would load one that was changed."""
    from safetensors.torch import load_file, save_file

    base, adapter = base_and_adapter(tmp_path, "a head")
    at = adapter / "adapter_model.safetensors"
    weights = load_file(at)
    copy = next(name for name in weights if name.endswith("lm_head.base_layer.weight"))
    plan_merge(base, adapter, name="tiny")
    weights[copy][0, 0] += 1
    save_file(weights, at)
    with pytest.raises(NotMergeableError, match=r"lm_head\.weight that is not the base model's"):
        plan_merge(base, adapter, name="tiny")


@pytest.mark.parametrize("kind", ["use_dora", "modules_to_save"])
def test_what_peft_itself_saved_of_other_kinds_is_refused(tmp_path: Path, kind: str) -> None:
    """Their weights are refused as well where adapter_config.json was edited by hand."""
    of_adapter = {"use_dora": True} if kind == "use_dora" else {"modules_to_save": ["lm_head"]}
    SHAPES[kind] = ({"model_type": "llama", "tie_word_embeddings": False}, of_adapter)
    base, adapter = base_and_adapter(tmp_path, kind)
    del SHAPES[kind]
    with pytest.raises(NotMergeableError, match=r"DoRA|modules_to_save"):
        plan_merge(base, adapter, name="tiny")
    at = adapter / "adapter_config.json"
    at.write_text(json.dumps({**json.loads(at.read_text()), kind: None}))
    with pytest.raises(NotMergeableError, match="no part of a LoRA"):
        plan_merge(base, adapter, name="tiny")


@pytest.mark.parametrize(
    ("layer", "says"),
    [("lm_head", "the same tensor"), ("model.layers.7.mlp.up_proj", "no weight")],
)
def test_a_part_without_its_place_is_refused(
    made: tuple[Path, Path], tmp_path: Path, layer: str, says: str
) -> None:
    """An adapter's part that has no tensor of its own in the base is named, not left out."""
    import torch
    from safetensors.torch import load_file, save_file

    adapter = tmp_path / "adapter"
    shutil.copytree(made[1], adapter)
    at = adapter / "adapter_model.safetensors"
    name = f"base_model.model.{layer}"
    more = {f"{name}.lora_A.weight": torch.ones(8, 64), f"{name}.lora_B.weight": torch.ones(160, 8)}
    save_file({**load_file(at), **more}, at)
    with pytest.raises(NotMergeableError, match=says):
        plan_merge(made[0], adapter, name="tiny")


def test_a_quantised_base_is_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Its weights are no numbers that something could be added to."""
    base = tmp_path / "base"
    shutil.copytree(made[0], base)
    config = json.loads((base / "config.json").read_text())
    quantised = {**config, "quantization_config": {"quant_method": "gptq"}}
    (base / "config.json").write_text(json.dumps(quantised))
    with pytest.raises(NotMergeableError, match="itself quantised"):
        plan_merge(base, made[1], name="tiny")


def test_disk_and_memory_are_forecast(made: tuple[Path, Path]) -> None:
    """Before a byte is written: what both ways need, and what the largest tensor takes."""
    plan = plan_merge(*made, name="tiny")
    assert plan.bytes == sum(weight.numel() * 2 for weight in set(plain(made[0]).values())) - (
        160 * 64 * 2  # a tied head is in the state dict, and not in the files
    )
    require_room(plan, ways=2, free_bytes=2 * plan.bytes + 5, leave_bytes=5)
    with pytest.raises(NotMergeableError, match="2 × "):
        require_room(plan, ways=2, free_bytes=2 * plan.bytes, leave_bytes=5)
    require_memory(plan, available_bytes=plan.host_bytes)
    with pytest.raises(NotMergeableError, match="largest tensor"):
        require_memory(plan, available_bytes=plan.host_bytes - 1)
