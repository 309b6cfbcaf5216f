"""Plain PEFT as the reference: tiny models of many families, and gradients row by row, no TRL.

The reference is what anybody would write down: each row alone, without padding, through the model's
own logits and torch's cross entropy, summed and divided by the tokens that are learned.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = 128  # of the tiny models' vocabulary
IGNORED = -100
TINY: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2}
_MAMBA = {"state_size": 4, "time_step_rank": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    # dense
    "llama": {},
    "qwen3": {},
    "phi3": {},
    "cohere": {},  # scales its logits
    "gpt_neox": {},
    # a window of 8 tokens
    "mistral": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8},
    # dropout of its own, 0.1 unless switched off
    "gpt2": _GPT,
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 48},
    "gpt_bigcode": _GPT,
    "biogpt": {},
    # eager attention alone; Gemma 2 caps its logits
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 8},
    "vaultgemma": {"sliding_window": 8, "query_pre_attn_scalar": 8},
    "bloom": {"n_layer": 2, "n_head": 4},
    "gptj": {**_GPT, "rotary_dim": 8},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2},
    "xglm": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48},
    # experts and a router
    "mixtral": {"num_local_experts": 4, "output_router_logits": True},
    "qwen3_moe": {**_MOE, "moe_intermediate_size": 16, "mlp_only_layers": []},
    "olmoe": _MOE,
    "flex_olmo": _MOE,
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "phimoe": {"num_local_experts": 4, "router_jitter_noise": 0.1},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "llama4_text": {"num_local_experts": 4, "intermediate_size_mlp": 48},
    "doge": {},
    # heads that TRL's fused one does not know
    "recurrent_gemma": {
        "lru_width": 32,
        "logits_soft_cap": 2.0,
        "attention_window_size": 8,
        "block_types": ["recurrent", "attention"],
        "partial_rotary_factor": 0.5,
    },
    "xlstm": {"num_heads": 4, "embedding_dim": 32, "num_blocks": 2, "output_logit_soft_cap": 2.0},
    "roberta": {"is_decoder": True},
    "modernbert-decoder": {"layer_types": ["full_attention", "sliding_attention"]},
    # state space layers, whose kernels take weights past their layers
    "mamba": _MAMBA,
    "falcon_h1": {
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 4,
        "mamba_n_groups": 1,
    },
}
"""Sizes of tiny models, by what a config calls them."""


def save_tiny(family: str, folder: Path, **more: Any) -> Path:
    """Save a tiny random model of a family, with weights large enough that faults show."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[family](**{**TINY, **FAMILIES[family], **more})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    return folder


def save_words(folder: Path) -> Any:
    """Save a tokenizer of as many words as the tiny models have, and give it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{n}": n for n in range(3, WORDS)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def random_rows(lengths: Sequence[int], *, prompt: int = 3) -> list[dict[str, Any]]:
    """Give rows of these lengths; all but the first few tokens are learned."""
    dice = random.Random(5)
    rows = []
    for number, length in enumerate(lengths):
        ids = [dice.randrange(3, WORDS) for _ in range(length)]
        labels = [IGNORED] * prompt + ids[prompt:]
        rows.append({"input_ids": ids, "labels": labels, "row": number})
    return rows


def stir(model: Any) -> None:
    """Give the adapter's B matrices values: at zero, nothing reaches the A matrices."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:
                torch.nn.init.normal_(weight, std=0.1)


def row_by_row(model: Any, rows: Sequence[dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    """Give the mean loss of a learned token and its gradients, each row alone, by plain logits."""
    import torch

    learned = sum(label != IGNORED for row in rows for label in row["labels"][1:])
    was_training = model.training
    model.eval()
    model.zero_grad(set_to_none=True)
    total = 0.0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        logits = model(input_ids=ids, use_cache=False).logits[0].float()
        wanted = torch.tensor(row["labels"])
        loss = torch.nn.functional.cross_entropy(
            logits[:-1], wanted[1:], ignore_index=IGNORED, reduction="sum"
        )
        (loss / learned).backward()
        total += float(loss.detach())
    found = take_gradients(model)
    model.train(was_training)
    return total / learned, found


def take_gradients(model: Any) -> dict[str, Any]:
    """Give the gradient of each trainable weight, zeros where there is none, and forget them."""
    import torch

    found = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.detach().clone()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
    model.zero_grad(set_to_none=True)
    return found


def largest_error(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    """Give the largest relative error of a gradient."""
    assert found.keys() == wanted.keys()
    return max(
        float((found[name] - wanted[name]).norm() / (wanted[name].norm() + 1e-12))
        for name in wanted
    )
