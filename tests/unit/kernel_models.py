"""Tiny models of the families that the fast path knows, each with an adapter that is not 0."""

from __future__ import annotations

from typing import Any

import torch

VOCABULARY = 300
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "qwen2": {},  # biases on queries, keys and values
    "qwen3": {"head_dim": 16},  # norms of each head
    "gemma": {"head_dim": 16, "hidden_activation": "gelu_pytorch_tanh"},  # 1 + weight, GeGLU, tied
    # Norms around both halves, every other layer sees 16 tokens, capped logits and scores (which
    # are small here), a scale of its own
    "gemma2": {
        "head_dim": 16,
        "attn_logit_softcapping": 0.02,
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 40,
        "sliding_window": 16,
        "hidden_activation": "gelu_pytorch_tanh",
    },
    # Norms of each head, and positions that differ between layers near and far
    "gemma3_text": {
        "head_dim": 16,
        "query_pre_attn_scalar": 40,
        "sliding_window": 16,
        "sliding_window_pattern": 2,
        "hidden_activation": "gelu_pytorch_tanh",
    },
    "phi3": {},  # one matrix for queries, keys and values, one for gate and up
    "granite": {  # what is added, embedded and attended to has factors; logits are divided
        "residual_multiplier": 0.3,
        "embedding_multiplier": 5.0,
        "logits_scaling": 2.5,
        "attention_multiplier": 0.1,
        "mlp_bias": True,
        "attention_bias": True,
    },
    "olmo2": {},  # norms behind each half alone, and of all heads together
    "olmo": {},  # LayerNorm without weights
    "stablelm": {"partial_rotary_factor": 0.25, "use_qkv_bias": True},  # LayerNorm with biases
    "glm": {"head_dim": 16, "attention_bias": True},  # neighbours turn, in half of a head
    "glm4": {"head_dim": 16, "attention_bias": True},  # and norms behind each half
    "smollm3": {"no_rope_layers": [1, 0, 1]},  # a layer without positions
    # Its layer that sees everything has no positions, and names a window all the same
    "exaone4": {
        "head_dim": 16,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}
"""Each of another structure; the fast path knows them all."""
PHI_4_MINI = {
    "partial_rotary_factor": 0.75,
    "rope_scaling": {
        "rope_type": "longrope",
        "short_factor": [1.0 + 0.1 * n for n in range(6)],
        "long_factor": [9.0] * 6,
    },
    "original_max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
"""Three quarters of a head turn, by positions that change beyond 64 tokens."""


def make(
    family: str,
    *,
    quantised: bool = True,
    targets: Any = "all-linear",
    lora_dropout: float = 0.0,
    **settings: Any,
) -> Any:
    """Make a PEFT model with random weights; norms and biases are random too."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**_SIZES, **FAMILIES[family], **settings})
    # Only eager attention caps scores, and only it is what such a model computes.
    attention = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=attention
    )
    model.config.use_cache = False
    for name, weight in model.named_parameters():
        if "norm" in name and not name.endswith("bias"):
            weight.data.normal_(std=0.3).add_(0.8)
        if "bias" in name:
            weight.data.normal_(std=0.3)
    if quantised:
        _quantise(model)
    adapter = LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        lora_alpha=8,
        target_modules=targets,
        lora_dropout=lora_dropout,
    )
    model = get_peft_model(model, adapter)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.1)
    return model


def _quantise(model: Any) -> None:
    import bitsandbytes

    for parent in list(model.modules()):
        for name, linear in list(parent.named_children()):
            if type(linear) is not torch.nn.Linear or name == "lm_head":
                continue
            new = bitsandbytes.nn.Linear4bit(
                linear.in_features,
                linear.out_features,
                bias=linear.bias is not None,
                compute_dtype=torch.float32,
                quant_type="nf4",
            )
            new.weight = bitsandbytes.nn.Params4bit(
                linear.weight.data,
                requires_grad=False,
                quant_type="nf4",
                compress_statistics=True,
            ).to("cpu")
            if linear.bias is not None:
                new.bias = linear.bias
            new.support_avx512bf16_for_cpu = False
            setattr(parent, name, new)
    model.is_loaded_in_4bit = True


def rows(*lengths: int, silent: int = 5) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Draw rows; their first tokens are not learned."""
    dice = torch.Generator().manual_seed(1)
    found = []
    for length in lengths:
        ids = torch.randint(3, VOCABULARY, (length,), generator=dice)
        labels = ids.clone()
        labels[:silent] = -100
        found.append((ids, labels))
    return found


def learned(batch: list[tuple[torch.Tensor, torch.Tensor]]) -> int:
    """Count the tokens that a batch learns."""
    return sum(int((labels[1:] != -100).sum()) for _, labels in batch)


def plain_step(
    model: Any, batch: list[tuple[torch.Tensor, torch.Tensor]]
) -> tuple[float, dict[str, torch.Tensor]]:
    """Go forward and back as PEFT does, row by row: the loss, and the gradients by name."""
    total = 0.0
    for ids, labels in batch:
        logits = model(input_ids=ids[None]).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(
            logits, labels[1:], ignore_index=-100, reduction="sum"
        ) / learned(batch)
        loss.backward()
        total += float(loss.detach())
    return total, take_grads(model)


def take_grads(model: Any) -> dict[str, torch.Tensor]:
    """Take the gradients away from a model."""
    found = {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}
    model.zero_grad(set_to_none=True)
    return found
