"""Merge of a model of random weights: peak host memory, seconds, bytes a second beside the disk's.

    python benchmarks/export.py FOLDER [--layers 16] [--hidden 2048] [--nf4]
    python benchmarks/export.py FOLDER --gguf q8_0 q4_k_m --tokenizer models/smollm2

The first call writes the base, the next ones merge. The last one takes what was merged: it is
converted by llama.cpp, quantised, and each file is loaded and asked by llama-server as in the
proof. An 8B is ``--layers 32 --hidden 4096``: 16 GB each of base, merged/ and the file in f16.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.contract.llama_cpp import LlamaCpp, find_llama_cpp, missing_tools
from runner.training.export.llama_convert import convert_model, quantize
from runner.training.export.llama_server import serve
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
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
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


def apart(step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Take a step in a process of its own; add its seconds and the peak of what it started."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def take() -> None:
        at = time.monotonic()
        found = step()
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        there.send({**found, "seconds": round(time.monotonic() - at, 1), "host_bytes_peak": peak})

    process = context.Process(target=take)
    process.start()
    there.close()  # else a step that fails would be waited for
    found: dict[str, Any] = here.recv()
    process.join()
    return found


def ask(model: Path, tools: LlamaCpp, log: Path, *, tokens: int = 256, places: int = 4) -> Any:
    """Load a file, read a prompt and give next tokens at a few places, as the proof does."""
    prompt = [number % 40_000 for number in range(1000, 1000 + tokens)]
    at = time.monotonic()
    with serve(tools, model, context=tokens + 64, log=log) as server:
        loaded, at = time.monotonic() - at, time.monotonic()
        server.next_tokens(prompt, most=1024)
        first, at = time.monotonic() - at, time.monotonic()
        for number in range(1, places + 1):
            server.next_tokens([*prompt, *range(number)], most=1024)
        each = (time.monotonic() - at) / places
    return {
        "load_seconds": round(loaded, 1),
        f"prompt_of_{tokens}_seconds": round(first, 1),
        "place_seconds": round(each, 2),
    }


def make_files(folder: Path, forms: list[str], tokenizer: Path) -> None:
    """Convert, quantise and ask; a line of JSON each. One quantised file lies there at a time."""
    tools = find_llama_cpp()
    if tools is None:
        sys.exit(missing_tools())
    merged, whole, log = folder / "merged", folder / "whole.gguf", folder / "log"
    for file in tokenizer.glob("*token*"):
        shutil.copy(file, merged)

    def told(form: str, file: Path, found: dict[str, Any]) -> None:
        size = file.stat().st_size
        line = {"form": form, "bytes": size, **found}
        if "load_seconds" not in found:
            line["bytes_per_second"] = round(size / found["seconds"])
        print(json.dumps(line), flush=True)

    def convert() -> dict[str, Any]:
        convert_model(merged, whole, tools, log=log)
        return {}

    if not whole.exists():
        told("f16", whole, apart(convert))
    for form in forms:
        file = folder / f"{form}.gguf"

        def make(form: str = form, file: Path = file) -> dict[str, Any]:
            quantize(whole, file, tools, form=form, log=log)
            return {}

        told(form, file, apart(make))
        told(f"{form}, asked", file, apart(lambda file=file: ask(file, tools, log)))
        file.unlink()


def main() -> None:
    """Measure, and print one line of JSON."""
    options = argparse.ArgumentParser()
    options.add_argument("folder", type=Path)
    options.add_argument("--layers", type=int, default=16)
    options.add_argument("--hidden", type=int, default=2048)
    options.add_argument("--nf4", action="store_true")
    options.add_argument("--device", default="cpu")
    options.add_argument("--gguf", nargs="+", default=[], help="formats besides f16")
    options.add_argument("--tokenizer", type=Path, help="a folder that llama.cpp knows")
    given = options.parse_args()
    if given.gguf:
        make_files(given.folder, given.gguf, given.tokenizer)
        return
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
