"""How far honest models are off in the set-up check of the fast path, on a CPU: false fall-backs.

    python benchmarks/check_distances.py [--model FOLDER] [--layers 4 24] [--only llama qwen3]

The check compares each layer with the plain path and allows 0.1 in bf16. Here it sees random
weights of several families, in 16 bits and in NF4: as they are drawn, and with queries and keys so
large that attention sees single tokens, and a few residual columns a hundred times the others, as
trained models have them.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from gpu_box import quantise

from runner.training.kernels.check import Checked, check
from runner.training.kernels.recognise import recognise

_SIZES = {
    "vocab_size": 1024,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GEMMA = {"head_dim": 64, "sliding_window": 16, "hidden_activation": "gelu_pytorch_tanh"}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "qwen3": {"head_dim": 64},
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "olmo2": {},
}
_ROWS = (96, 64)


def drawn(family: str, layers: int, *, peaked: bool) -> Any:
    """Draw a model's weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    settings = {**_SIZES, **FAMILIES[family], "num_hidden_layers": layers}
    config = AutoConfig.for_model(family, **settings)
    how = "eager" if family == "gemma2" else "sdpa"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=how)
    if not peaked:
        return model
    columns = torch.tensor([3, 77, 200])
    for name, weight in model.named_parameters():
        if "q_proj.weight" in name or "k_proj.weight" in name:
            weight.data.mul_(6)
        if "q_norm" in name or "k_norm" in name:
            weight.data.add_(3)
        if "embed_tokens" in name:
            weight.data[:, columns] *= 100
    return model


def with_adapter(model: Any) -> Any:
    """Put a fresh adapter on, in fp32 as the product has it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    adapter = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=16, target_modules="all-linear")
    found = get_peft_model(model, adapter)
    for weight in found.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return found


def distance(model: Any, rows: list[list[int]]) -> Checked:
    """Check the fast path as a run does at set-up."""
    parts = recognise(model, dtype=torch.bfloat16, longest=128)
    config = model.get_base_model().config.get_text_config()

    def loss_of(row: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=row[None], use_cache=False).logits[0, :-1]
        return torch.nn.functional.cross_entropy(logits.float(), row[1:], reduction="sum")

    return check(parts, list(model.get_base_model().model.layers), rows, loss_of, config=config)


def real(folder: Path, *, nf4: bool) -> tuple[Any, list[list[int]]]:
    """Load a model as the product does, and two rows of English."""
    from transformers import AutoTokenizer

    from runner.training.fit.model import Machine, load_base

    machine = Machine(device="cpu", compute="bfloat16")
    model = load_base(folder, method="qlora" if nf4 else "lora", machine=machine)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = Path(__file__).parent.parent.joinpath("README.md").read_text()
    ids = tokenizer(text)["input_ids"]
    return model, [ids[:96], ids[200:264]]


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a real model's folder")
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 24])
    parser.add_argument("--only", nargs="+", default=list(FAMILIES))
    parser.add_argument("--without-nf4", action="store_true")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    dice = torch.Generator().manual_seed(2)
    ids = [torch.randint(3, 1024, (n,), generator=dice).tolist() for n in _ROWS]

    def tell(what: str, model: Any, rows: list[list[int]]) -> None:
        began = time.monotonic()
        found = distance(with_adapter(model), rows)
        seconds = time.monotonic() - began
        print(f"| {what} | {found.worst:.4f} | {found.where} | {seconds:.0f} s |", flush=True)

    for nf4 in (False,) if asked.without_nf4 else (False, True):
        kind = "NF4" if nf4 else "bf16"
        if asked.model:
            tell(f"{asked.model.name}, {kind}", *real(asked.model, nf4=nf4))
        for family in asked.only:
            for layers in asked.layers:
                for peaked in (False, True):
                    model = drawn(family, layers, peaked=peaked)
                    model.config.use_cache = False
                    if nf4:
                        quantise(model, torch.bfloat16)
                    how = ", peaked" if peaked else ""
                    tell(f"{family}, {layers} layers, {kind}{how}", model, ids)


if __name__ == "__main__":
    main()
