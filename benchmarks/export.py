"""Merge of a model of random weights: peak host memory, seconds, bytes a second beside the disk's.

Command: `python benchmarks/export.py FOLDER [--layers 16] [--hidden 2048] [--nf4]`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

from runner.training.export.merge import merge, plan_merge
from runner.training.export.nf4_weights import nf4_weights

_WORDS = 128_256  # Llama 3's
_SHARD_BYTES = 4 * 1024**3


def make_base(folder: Path, *, layers: int, hidden: int) -> dict[str, list[int]]:
    """Write a Llama of random bf16 weights, tensor by tensor; give its layers' shapes."""
    folder.mkdir(parents=True)
    wide, heads = hidden * 7 // 2, hidden // 64
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 4,
        "head_dim": 64,
        "vocab_size": _WORDS,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    linear: dict[str, list[int]] = {}
    shapes = {"model.embed_tokens": [_WORDS, hidden], "lm_head": [_WORDS, hidden]}
    shapes["model.norm"] = [hidden]
    for layer in range(layers):
        of = f"model.layers.{layer}"
        here = {
            f"{of}.self_attn.q_proj": [hidden, hidden],
            f"{of}.self_attn.k_proj": [hidden // 4, hidden],
            f"{of}.self_attn.v_proj": [hidden // 4, hidden],
            f"{of}.self_attn.o_proj": [hidden, hidden],
            f"{of}.mlp.gate_proj": [wide, hidden],
            f"{of}.mlp.up_proj": [wide, hidden],
            f"{of}.mlp.down_proj": [hidden, wide],
        }
        linear |= here
        shapes |= here
        shapes |= {f"{of}.{name}": [hidden] for name in _NORMS}
    _write(folder, {f"{name}.weight": shape for name, shape in shapes.items()})
    return linear


_NORMS = ("input_layernorm", "post_attention_layernorm")


def _write(folder: Path, shapes: dict[str, list[int]]) -> None:
    from safetensors.torch import save_file

    shard: dict[str, Any] = {}
    places: dict[str, str] = {}
    number, size = 0, 0
    for name, shape in shapes.items():
        import torch

        shard[name] = torch.randn(shape, dtype=torch.bfloat16) * 0.02
        size += shard[name].numel() * 2
        if size > _SHARD_BYTES // 8 or name == list(shapes)[-1]:
            file = f"model-{number:05d}.safetensors"
            save_file(shard, folder / file, metadata={"format": "pt"})
            places |= dict.fromkeys(shard, file)
            shard, size, number = {}, 0, number + 1
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def make_adapter(folder: Path, linear: dict[str, list[int]], *, rank: int = 16) -> None:
    """Write an adapter of random weights."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 32, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = {}
    for name, (out, into) in linear.items():
        weights[f"base_model.model.{name}.lora_A.weight"] = torch.randn(rank, into)
        weights[f"base_model.model.{name}.lora_B.weight"] = torch.randn(out, rank)
    save_file(weights, folder / "adapter_model.safetensors")


def disk_rate(folder: Path, *, size: int = 2 * 1024**3) -> float:
    """Give the bytes a second that the disk takes of a plain file, brought to it."""
    block, at = os.urandom(8 * 1024**2), time.monotonic()
    with (folder / "plain").open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        os.fsync(file.fileno())
    rate = size / (time.monotonic() - at)
    (folder / "plain").unlink()
    return rate


def main() -> None:
    """Measure, and print one line of JSON."""
    options = argparse.ArgumentParser()
    options.add_argument("folder", type=Path)
    options.add_argument("--layers", type=int, default=16)
    options.add_argument("--hidden", type=int, default=2048)
    options.add_argument("--nf4", action="store_true")
    options.add_argument("--device", default="cpu")
    given = options.parse_args()
    base, adapter, target = (given.folder / name for name in ("base", "adapter", "merged"))
    if not base.exists():
        linear = make_base(base, layers=given.layers, hidden=given.hidden)
        make_adapter(adapter, linear)
        print("made; run it again: what writing took must not count as the merge's memory")
        return
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    packed = nf4_weights(base, compute="bfloat16") if given.nf4 else frozenset()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    plan = plan_merge(base, adapter, name="random")
    at = time.monotonic()
    merge(plan, target, nf4=packed, compute="bfloat16", device=given.device)
    for path in target.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    seconds = time.monotonic() - at
    found = {
        "model_bytes": plan.bytes,
        "nf4": given.nf4,
        "seconds": round(seconds, 1),
        "bytes_per_second": round(plan.bytes / seconds),
        "disk_bytes_per_second": round(disk_rate(given.folder)),
        "host_bytes_before": before,
        "host_bytes_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "host_bytes_forecast": plan.host_bytes,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
