"""Answers of a model to conversations, always the same: the likeliest token each time."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from runner.training.data.control_tokens import Readers
from runner.training.data.system_message import fold_system, renders_system
from runner.training.data.tokenizer_folder import GENERATION
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

    prompts = prompt_ids(tokenizer, conversations)
    longest = max(map(len, prompts))
    pad = tokenizer.pad_token_id or 0  # without one there is a single prompt, and nothing to pad
    # The answers begin where the prompts end: they are padded before.
    blanks = [longest - len(prompt) for prompt in prompts]
    rows = [[pad] * blank + prompt for blank, prompt in zip(blanks, prompts, strict=True)]
    seen = [[0] * blank + [1] * (longest - blank) for blank in blanks]
    with torch.inference_mode(), autocast(machine):
        out = model.generate(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(seen, device=model.device),
            max_new_tokens=tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            use_cache=True,
            eos_token_id=ends(model, tokenizer),
            pad_token_id=tokenizer.pad_token_id,
        )
    return [
        text.strip() for text in tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
    ]


def prompt_ids(tokenizer: Any, conversations: list[Conversation]) -> list[list[int]]:
    """Give the tokens of each conversation as training had them: a spelled control token is text.

    A system message stands before the first question where the template has no place for it.
    """
    readers = Readers(tokenizer)
    folds = not renders_system(readers.usual)
    found = []
    for conversation in conversations:
        messages = fold_system(conversation) if folds else conversation
        spelled = readers.spelled_in(text for m in messages for text in _texts(m))
        reader = readers.plain if spelled else readers.usual
        found.append(reader.ids(reader.render(messages, generation_prompt=True)))
    return found


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

    if machine.on_gpu:
        return False
    packed, compute = _packed(model), getattr(torch, machine.compute)
    numbers = sum(layer.in_features * layer.out_features for _, _, layer in packed)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if not packed or numbers * compute.itemsize > _SHARE_OF_FREE_MEMORY * free:
        return False
    unpack(model, compute)
    return True


def unpack(model: Any, compute: Any) -> None:
    """Replace NF4 layers by plain ones of the same numbers, wherever the model is."""
    import torch
    from bitsandbytes.functional import dequantize_4bit

    for parent, name, layer in _packed(model):
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        plain = torch.nn.Linear(layer.in_features, layer.out_features, device="meta")
        plain.weight = torch.nn.Parameter(weight.to(compute), requires_grad=False)
        plain.bias = layer.bias
        setattr(parent, name, plain)


def _packed(model: Any) -> list[tuple[Any, str, Any]]:
    """List NF4 layers: parent, name there, layer."""
    from bitsandbytes.nn import Linear4bit

    return [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, Linear4bit)
    ]


def ends(model: Any, tokenizer: Any) -> list[int]:
    """List where an answer stops: where the adapter's own generation_config.json says, too."""
    found: list[Any] = [tokenizer.eos_token_id, model.generation_config.eos_token_id]
    try:
        beside = json.loads((Path(tokenizer.name_or_path) / GENERATION).read_bytes())
        found.append(beside["eos_token_id"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # a tokenizer without one: a base model's
    flat = [end for each in found for end in (each if isinstance(each, list) else [each])]
    return sorted({end for end in flat if isinstance(end, int)})


def _texts(message: dict[str, Any]) -> list[str]:
    return [value for value in message.values() if isinstance(value, str)]
