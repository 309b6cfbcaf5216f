"""Tiny random models that also read pictures, saved by their own classes as the hub has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plain_peft import TINY

_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
    "num_channels": 3,
    "depth": 1,
    "num_heads": 4,
    "out_hidden_size": 32,
    "projection_dim": 32,
}
_LINEAR_ATTENTION = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "head_dim": 32,
}
_GEMMA4 = {
    "layer_types": ["sliding_attention", "full_attention"],
    "num_kv_shared_layers": 0,
    "sliding_window": 8,
    "final_logit_softcapping": 2.0,
}
_GRID = {"image_grid_pinpoints": [[28, 28]]}
PICTURES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "gemma3": ({"sliding_window": 8}, {}, {}),
    "gemma4": (
        {**_GEMMA4, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 128},
        {"num_key_value_heads": 4, "head_dim": 8},
        {"audio_config": None},
    ),
    "gemma4+experts": (
        {
            **_GEMMA4,
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 16,
        },
        {"num_key_value_heads": 4, "head_dim": 8},
        {"audio_config": None},
    ),
    "gemma4_unified": (_GEMMA4, {}, {"audio_config": None}),
    "qwen3_5": (_LINEAR_ATTENTION, {}, {}),
    "qwen3_5_moe": (
        {
            **_LINEAR_ATTENTION,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
        {},
        {},
    ),
    "llama4": (
        {"num_local_experts": 4, "intermediate_size_mlp": 48, "interleave_moe_layer_step": 2},
        {
            "intermediate_size": 128,
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
        },
        {},
    ),
    "mistral3": ({"model_type": "mistral"}, {"model_type": "pixtral"}, {}),
    "mistral3+ministral3": ({"model_type": "ministral3"}, {"model_type": "pixtral"}, {}),
    "llava": ({"model_type": "llama"}, {"model_type": "clip_vision_model"}, {}),
    "llava_next": ({"model_type": "mistral"}, {"model_type": "clip_vision_model"}, _GRID),
    "llava_onevision": ({"model_type": "qwen2"}, {"model_type": "siglip_vision_model"}, _GRID),
    "vipllava": ({"model_type": "llama"}, {"model_type": "clip_vision_model"}, {}),
    "internvl": ({"model_type": "qwen3"}, {}, {}),
    "lfm2_vl": (
        {"model_type": "lfm2", "layer_types": ["conv", "full_attention"]},
        {"model_type": "siglip2_vision_model"},
        {},
    ),
    "idefics2": ({"model_type": "mistral"}, {}, {}),
    "idefics3": ({"model_type": "llama"}, {}, {}),
    "smolvlm": ({"model_type": "llama"}, {}, {}),
    "aya_vision": ({"model_type": "cohere2"}, {"model_type": "siglip_vision_model"}, {}),
}
"""What differs in the text part, the picture part and the whole, by model type (+ text's type)."""


def save_whole(
    family: str, folder: Path, *, words: int = 128, tied: bool = False, **sizes: Any
) -> Any:
    """Save a tiny model of a family, with weights large enough that faults show, and give it.

    Args:
        family: a name of the table.
        folder: where to.
        words: tokens that it knows.
        tied: its head is its table of words, as in Gemma and in small models.
        sizes: of its text part, other than the table's.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    text, vision, more = PICTURES[family]
    config = CONFIG_MAPPING[family.split("+", maxsplit=1)[0]](
        text_config={**TINY, **text, "vocab_size": words, "tie_word_embeddings": tied, **sizes},
        vision_config={**_VISION, **vision},
        tie_word_embeddings=tied,
        **more,
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    return model.eval()


def rename_keys(folder: Path, old: str, new: str) -> int:
    """Save weights under the names of another layout; give how many got another name."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    renamed = {
        new + name.removeprefix(old) if name.startswith(old) else name: weight
        for name, weight in weights.items()
    }
    save_file(renamed, path, metadata={"format": "pt"})
    return len(renamed.keys() - weights.keys())
