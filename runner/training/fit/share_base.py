"""Shared base: of N ranks each keeps every Nth layer on its card, the others in host memory.

For a base in 4 bits that one card has no room for; on the fast path alone, which fetches a layer
as it comes to it (kernels/base_on_host.py). The model's own code cannot: what is tried on it before
step 1 is tried on its first layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from runner.errors import StageError
from runner.exit_codes import ExitCode

TRIED = 2
"""Layers on which the fast path is compared with the model's own: each way back on one of them."""


def away(layers: int, ranks: int) -> list[int]:
    """Number the layers that wait on the host: spread out, so that time to fetch one is even."""
    return [number for number in range(layers) if number % ranks]


@torch.no_grad()
def place_on_card(model: Any, *, ranks: int, device: str) -> None:
    """Move a PEFT model that was loaded into host memory: all but the 4-bit weights that stay.

    Those of the first layers come along until they were tried.
    """
    base = model.get_base_model()
    inner = base.model
    for parent in (base, inner):
        for child in parent.children():
            if child is not inner and child is not inner.layers:
                child.to(device)
    staying = set(away(len(inner.layers), ranks)) - set(range(TRIED))
    for number, layer in enumerate(inner.layers):
        if number not in staying:
            layer.to(device)
            continue
        for module in layer.modules():
            for weight in module.parameters(recurse=False):
                if weight.dtype != torch.uint8:
                    weight.data = weight.data.to(device)
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
    base.hf_device_map = {"": 0 if device != "cpu" else "cpu"}  # accelerate asks where it computes


@contextmanager
def first_layers(model: Any, *, alone: bool) -> Iterator[None]:
    """Let a model have its first layers ``alone``, for a while; else leave it as it is."""
    inner = model.get_base_model().model if alone else None
    whole = inner.layers if inner is not None else None
    if inner is not None:
        inner.layers = torch.nn.ModuleList(list(inner.layers)[:TRIED])
    try:
        yield
    finally:
        if inner is not None:
            inner.layers = whole


def drop_modules(model: Any, *, but_first: int = 0) -> None:
    """Let the model's own modules forget their 4-bit weights: the fast path has them."""
    for layer in list(model.get_base_model().model.layers)[but_first:]:
        for module in layer.modules():
            weight: Any = getattr(module, "weight", None)
            state = getattr(weight, "quant_state", None)
            if state is not None:
                weight.data = weight.data.new_empty(0)
                state.absmax = state.absmax.new_empty(0)


def refuse(why: str) -> StageError:
    """Say that a base cannot be shared."""
    return StageError(
        f"The cards cannot share this base model: {why}.",
        exit_code=ExitCode.BAD_INPUT,
        kind="cannot_share_base",
        advice="Train on a card that holds the whole model, or choose a smaller one.",
    )
