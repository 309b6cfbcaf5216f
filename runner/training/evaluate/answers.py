"""Turns conversations into a model's answers, always the same: the likeliest token each time."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from runner.training.fit.model import Machine

Conversation = list[dict[str, Any]]

_SHARE_OF_FREE_MEMORY = 0.25  # what unpacked weights may take of the host's free memory


def answers(
    model: Any, tokenizer: Any, conversations: list[Conversation], *, machine: Machine, tokens: int
) -> list[str]:
    """Answer the last message of each conversation, all in one batch.

    Args:
        model: a causal LM, with or without an adapter.
        tokenizer: its tokenizer; a pad token is needed where there are several conversations.
        conversations: chat messages, each list ending with what is to be answered.
        machine: where the model computes.
        tokens: the longest answer, in tokens.
    """
    import torch

    tokenizer.padding_side = "left"  # the answers begin where the prompts end
    inputs = tokenizer.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
        padding=True,
    ).to(model.device)
    with torch.inference_mode(), autocast(machine):
        out = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            use_cache=True,
            eos_token_id=sorted({tokenizer.eos_token_id, *_more_ends(model)}),
            pad_token_id=tokenizer.pad_token_id,
        )
    new = out[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


def autocast(machine: Machine) -> Any:
    """Compute as training does: Trainer runs its forward pass under autocast."""
    import torch

    if machine.compute == "float32":
        return contextlib.nullcontext()
    return torch.autocast(machine.device, dtype=getattr(torch, machine.compute))


def unpack_for_answers(model: Any, machine: Machine) -> bool:
    """Replace NF4 layers by plain ones of the same numbers, where a CPU has the room for them.

    A CPU unpacks every NF4 layer again for every token: an answer then takes minutes. A card does
    that in passing, and its memory is what NF4 was chosen for; there nothing is changed.

    Returns:
        Whether the layers were replaced. The model is then for answering only.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    if machine.on_gpu:
        return False
    packed = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, Linear4bit)
    ]
    item_bytes = getattr(torch, machine.compute).itemsize
    need = sum(layer.in_features * layer.out_features * item_bytes for _, _, layer in packed)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if not packed or need > _SHARE_OF_FREE_MEMORY * free:
        return False
    for parent, name, layer in packed:
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        plain = torch.nn.Linear(layer.in_features, layer.out_features, device="meta")
        plain.weight = torch.nn.Parameter(
            weight.to(getattr(torch, machine.compute)), requires_grad=False
        )
        plain.bias = layer.bias
        setattr(parent, name, plain)
    return True


def _more_ends(model: Any) -> list[int]:
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]
