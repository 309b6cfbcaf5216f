"""Which models the fast path knows: told by the structure of their layers, not by their names.

Every weight of the model must be one that was understood; norms, gates and positions are tried on
numbers. What is not understood gives a reason, and the model trains on the plain path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from runner.training.kernels import embedding
from runner.training.kernels.adapter import Adapter
from runner.training.kernels.fp8 import Scales
from runner.training.kernels.layer import Layer
from runner.training.kernels.loss import Head
from runner.training.kernels.not_recognised import NotRecognised
from runner.training.kernels.projection import Buffers, Group
from runner.training.kernels.recognise_block import Block, block_of, note
from runner.training.kernels.recognise_norm import norm_of
from runner.training.kernels.recognise_rope import turns_of
from runner.training.kernels.recognise_settings import refuse_settings
from runner.training.kernels.rmsnorm import Norm
from runner.training.kernels.rope import Turns
from runner.training.kernels.rows import Rows

__all__ = ["NotRecognised", "Parts", "obstacle", "recognise"]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A recognised model."""

    embed: Any
    """The module itself: some scale what they give."""
    embed_factor: float
    """What the model multiplies that by besides (Granite)."""
    layers: tuple[Layer, ...]
    last_norm: Norm
    head: Head
    adapter: Adapter
    dtype: torch.dtype
    buffers: Buffers
    fp8: dict[int, Scales] = field(default_factory=dict)
    """Scales of each group by its place, once they are measured."""

    @torch.no_grad()
    def use_fp8(self, *, on: bool = True) -> None:
        """Compute the base's products in fp8, or as exactly as before.

        Raises:
            NotRecognised: a group's weights cannot be multiplied so.
        """
        groups = [group for layer in self.layers for group in layer.groups]
        for number, group in enumerate(groups):
            if on and number not in self.fp8:
                self.fp8[number] = group.measure_fp8()
            group.scales = self.fp8[number] if on else None
        self.buffers.forget()  # of the other kind: together they would take twice the memory

    def keep_unpacked(self, layers: int) -> None:
        """Let the weights of the first so many layers stay unpacked, and of no other."""
        for number, layer in enumerate(self.layers):
            for group in layer.groups:
                group.stay_unpacked(number < layers)

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Compute as exactly as the model does, for a while: what is measured is comparable."""
        was = any(group.scales is not None for layer in self.layers for group in layer.groups)
        if was:
            self.use_fp8(on=False)
        try:
            yield
        finally:
            if was:
                self.use_fp8()

    @property
    def movable_words(self) -> int:
        """Numbers of the table of the words that go in, if it can wait on the host; else 0."""
        weight = self.embed.weight
        is_plain = type(self.embed) is torch.nn.Embedding and weight.dtype == self.dtype
        shared = weight.data_ptr() == self.head.weight.data_ptr()
        return 0 if shared or not is_plain or weight.requires_grad else int(weight.numel())

    @torch.no_grad()
    def keep_embedding_on_host(self, *, on: bool) -> None:
        """Let the table of the words that go in wait on the host, or bring it back."""
        weight = self.embed.weight
        card = self.head.weight.device
        if card.type == "cpu" or on == (weight.device.type == "cpu"):
            return
        weight.data = embedding.to_host(weight.data) if on else weight.data.to(card)
        if on:
            torch.cuda.empty_cache()  # its room is for passes now

    @torch.no_grad()
    def embedded(self, rows: Rows) -> torch.Tensor:
        """Give what goes into the first layer."""
        weight = self.embed.weight
        if weight.device == rows.ids.device:
            x = self.embed(rows.ids)
        else:
            x = embedding.fetch(weight, rows.ids, rows.host_ids)
        return (x if self.embed_factor == 1 else x * self.embed_factor).to(self.dtype)


def recognise(model: Any, *, dtype: torch.dtype, longest: int) -> Parts:
    """Take a PEFT model apart.

    Args:
        model: the PEFT model.
        dtype: what it computes in.
        longest: tokens of the longest row.

    Raises:
        NotRecognised: it holds something unknown; nothing was changed.
    """
    understood = _understand(model, dtype, longest)
    inner, head = model.get_base_model().model, understood.head
    adapter, buffers = Adapter(dtype, head.weight.device), Buffers()
    layers = tuple(
        Layer(
            first_norm=block.first_norm,
            second_norm=block.second_norm,
            out_norm=block.out_norm,
            down_norm=block.down_norm,
            added=block.added,
            qkv=Group("qkv", block.qkv, adapter, buffers),
            out=Group("out", block.out, adapter, buffers),
            gate_up=Group("gate_up", block.gate_up, adapter, buffers),
            down=Group("down", block.down, adapter, buffers),
            heads=block.heads,
            head_norms=block.head_norms,
            gate=block.gate,
            turns=turns,
        )
        for block, turns in zip(understood.blocks, understood.turns, strict=True)
    )
    adapter.finish()
    return Parts(
        embed=inner.embed_tokens,
        embed_factor=float(getattr(inner, "embedding_multiplier", 1.0)),
        layers=layers,
        last_norm=understood.last_norm,
        head=head,
        adapter=adapter,
        dtype=dtype,
        buffers=buffers,
    )


def obstacle(model: Any, *, longest: int) -> str | None:
    """Say what the fast path does not know of a model without weights; None: nothing is in its way.

    Norms and positions are tried on made-up weights; whether every layer computes what the model's
    own does is checked when the weights are there.
    """
    try:
        _understand(model, model.get_output_embeddings().weight.dtype, longest)
    except NotRecognised as error:
        return str(error)
    return None


@dataclass(frozen=True, kw_only=True)
class _Understood:
    """A model's parts, before anything is changed about them."""

    blocks: list[Block]
    turns: list[Turns | None]
    last_norm: Norm
    head: Head


def _understand(model: Any, dtype: torch.dtype, longest: int) -> _Understood:
    base = model.get_base_model()
    inner = getattr(base, "model", None)
    if inner is None or not all(hasattr(inner, n) for n in ("embed_tokens", "layers", "norm")):
        raise NotRecognised("its parts have unusual names")
    config = base.config.get_text_config()
    refuse_settings(config, longest)
    known: set[int] = set()
    note(inner.embed_tokens, known)
    head = _head(base, config, dtype, known)
    last_norm = norm_of(inner.norm, dtype, head.weight.shape[1], head.weight.device)
    note(inner.norm, known)
    blocks = [
        block_of(layer, config, dtype, known, number) for number, layer in enumerate(inner.layers)
    ]
    if any(id(weight) not in known for weight in model.parameters()):
        name = next(n for n, weight in model.named_parameters() if id(weight) not in known)
        raise NotRecognised(f"the weight {name.removeprefix('base_model.model.')}")
    _refuse_other_training(model, blocks)
    if len({block.heads.size for block in blocks}) > 1:
        raise NotRecognised("heads of different sizes")
    device = head.weight.device
    turns = turns_of(inner, config, longest, dtype, "cpu" if device.type == "meta" else device)
    return _Understood(blocks=blocks, turns=turns, last_norm=last_norm, head=head)


def _refuse_other_training(model: Any, blocks: list[Block]) -> None:
    """Refuse weights that are trained beside LoRA's A and B: they would get no gradient here."""
    sides = [(b.qkv, b.out, b.gate_up, b.down) for b in blocks]
    loras = [one.lora for side in sides for group in side for one in group if one.lora is not None]
    known = {id(weight) for lora in loras for weight in (lora.down, lora.up)}
    for name, weight in model.named_parameters():
        if weight.requires_grad and id(weight) not in known:
            short = name.removeprefix("base_model.model.")
            raise NotRecognised(f"a trained weight beside LoRA's ({short})")


def _head(base: Any, config: Any, dtype: torch.dtype, known: set[int]) -> Head:
    head = base.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None or not hasattr(head, "weight"):
        raise NotRecognised("its head")
    if head.weight.dtype != dtype:
        raise NotRecognised(f"a head in {str(head.weight.dtype).removeprefix('torch.')}")
    note(head, known)
    return Head(
        weight=head.weight.data,
        factor=1.0 / float(getattr(config, "logits_scaling", None) or 1.0),
        cap=float(getattr(config, "final_logit_softcapping", None) or 0.0),
    )
