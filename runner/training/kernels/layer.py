"""A decoder layer with a frozen base as one autograd function: no large product is made twice.

Frozen weights need no gradient, so the way back is the gradient of the input and LoRA's thin
products. A layer that keeps everything holds its two residual inputs, queries, keys and values,
attention's output and row sums, gate and up; norms and the gate are made again, which costs memory
traffic and no product. A layer that keeps its input alone makes all but down_proj again. Where a
norm stands behind a product (Gemma 2, OLMo 2), that product is kept too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from runner.training.kernels import attention, glu, rmsnorm, rope
from runner.training.kernels.dropout import Draws
from runner.training.kernels.glu import Gate
from runner.training.kernels.heads import Heads
from runner.training.kernels.projection import Group, Place
from runner.training.kernels.rmsnorm import Norm
from runner.training.kernels.rope import Turns
from runner.training.kernels.rows import Rows


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The parts of one decoder layer."""

    first_norm: Norm | None
    """Before queries, keys and values; None: they read the layer's input (OLMo 2)."""
    second_norm: Norm | None
    """Before gate and up."""
    out_norm: Norm | None = None
    """Behind attention, before it is added to the input (Gemma 2, OLMo 2)."""
    down_norm: Norm | None = None
    """Behind the MLP, likewise."""
    added: float = 1.0
    """What both halves are multiplied by before they are added (Granite)."""
    qkv: Group
    out: Group
    gate_up: Group
    down: Group
    heads: Heads
    head_norms: tuple[Norm, Norm] | None
    """Of queries and keys, before they are turned: of each head (Qwen 3) or of all (OLMo 2)."""
    gate: Gate
    turns: Turns | None
    """None: a layer that knows no positions (SmolLM 3)."""

    @property
    def groups(self) -> tuple[Group, Group, Group, Group]:
        """Its products."""
        return self.qkv, self.out, self.gate_up, self.down


class LayerFunction(torch.autograd.Function):
    """One decoder layer; LoRA's gradients are added to their sums on the way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Layer, rows: Rows, keep: bool) -> torch.Tensor:  # noqa: FBT001
        """Give the layer's output."""
        qkv, out, kept, (middle, of_out) = _attend(layer, x, rows)
        gate_up = projected(layer.gate_up, middle, layer.second_norm, rows.draws)
        y, of_down = through_down(layer, gate_up, middle, rows.draws)
        ctx.layer, ctx.rows, ctx.keep = layer, rows, keep
        ctx.of_down = of_down
        if keep:
            # Not all through save_for_backward: the MLP's half is freed in the middle of the way.
            ctx.kept, ctx.of_out, ctx.mlp = kept, of_out, (middle, gate_up)
            ctx.save_for_backward(x, qkv, out)
        else:
            ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """Give the gradient of the input."""
        layer, rows = ctx.layer, ctx.rows
        if ctx.keep:
            x, qkv, out = ctx.saved_tensors
            kept, of_out, (middle, gate_up), ctx.mlp = ctx.kept, ctx.of_out, ctx.mlp, None
        else:
            (x,) = ctx.saved_tensors
            qkv, out, kept, (middle, of_out) = _attend(layer, x, rows)
            gate_up = projected(layer.gate_up, middle, layer.second_norm, rows.draws)
        grad = mlp_back(layer, grad.contiguous(), middle, gate_up, ctx.of_down, rows.draws)
        del middle, gate_up
        ctx.of_down = ctx.of_out = None
        return _attention_back(layer, grad, x, (qkv, out, kept, of_out), rows), None, None, None


def projected(
    group: Group, x: torch.Tensor, norm: Norm | None, draws: Draws | None
) -> torch.Tensor:
    """Give the first product of a half of the layer, which reads its input normed."""
    if norm is None:
        return group.forward(x, draws=draws)
    place = group.place(x.shape[0])
    seen = rmsnorm.forward(x, norm, out=None if place is None else place.seen)
    return group.forward(seen, draws=draws, place=place)


def through_down(
    layer: Layer, gate_up: torch.Tensor, residual: torch.Tensor, draws: Draws | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Add the MLP's output to what went into it; give it alone, too, where a norm needs it."""
    place = layer.down.place(gate_up.shape[0])
    hidden = glu.forward(gate_up, layer.gate, None if place is None else place.seen)
    return add(layer.down, hidden, residual, layer.down_norm, layer.added, draws, place)


def add(
    group: Group,
    x: torch.Tensor,
    residual: torch.Tensor,
    norm: Norm | None,
    scale: float,
    draws: Draws | None,
    place: Place | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Add a half of the layer to what went into it; give the product, too, where a norm needs it.

    Without a norm the sum is made within the product.
    """
    if norm is None:
        return group.forward(x, residual, scale=scale, draws=draws, place=place), None
    product = group.forward(x, draws=draws, place=place)
    return rmsnorm.forward(product, norm, residual=residual), product


def of_product(
    grad: torch.Tensor, product: torch.Tensor | None, norm: Norm | None, scale: float
) -> torch.Tensor:
    """Give the gradient of what `add` added, before norm and scale."""
    if norm is None or product is None:
        return grad if scale == 1 else grad * scale
    return rmsnorm.backward(product, norm, grad)[0]


def _attend(
    layer: Layer, x: torch.Tensor, rows: Rows
) -> tuple[torch.Tensor, torch.Tensor, tuple[Any, ...], tuple[torch.Tensor, torch.Tensor | None]]:
    qkv = projected(layer.qkv, x, layer.first_norm, rows.draws)
    new = turned(layer, qkv, rows.position, in_place=True)
    out, kept = attention.forward(new, layer.heads, rows)
    flat = out.reshape(x.shape[0], -1)
    return qkv, out, kept, add(layer.out, flat, x, layer.out_norm, layer.added, rows.draws)


def turned(
    layer: Layer, qkv: torch.Tensor, position: torch.Tensor, *, in_place: bool
) -> torch.Tensor:
    """Give queries and keys normed and turned, beside the values.

    Without head norms ``qkv`` itself is turned, once, and so kept. With them it is kept as it was,
    since the norms' way back needs it.
    """
    heads = layer.heads
    if layer.head_norms is None:
        if in_place:
            rope.turn(qkv, heads.q_heads + heads.kv_heads, heads.size, position, layer.turns)
        return qkv
    new = torch.empty_like(qkv)
    of_new, of_old = heads.split(new), heads.split(qkv)
    for at, norm in enumerate(layer.head_norms):
        rmsnorm.forward(_by(norm, of_old[at]), norm, out=_by(norm, of_new[at]))
    of_new[2].copy_(of_old[2])
    rope.turn(new, heads.q_heads + heads.kv_heads, heads.size, position, layer.turns)
    return new


def head_norms_back(layer: Layer, qkv: torch.Tensor, of_qkv: torch.Tensor) -> None:
    """Turn the gradients of normed queries and keys into those of ``qkv``, in place."""
    if layer.head_norms is not None:
        of_old, of_new = layer.heads.split(qkv), layer.heads.split(of_qkv)
        for at, norm in enumerate(layer.head_norms):
            old, new = _by(norm, of_old[at]), _by(norm, of_new[at])
            rmsnorm.backward(old, norm, new, out=new)


def _by(norm: Norm, part: torch.Tensor) -> torch.Tensor:
    """View queries or keys by what is normed as one: a head, or all of them."""
    return part.view(part.shape[0], -1, norm.weight.numel())


def into_half_back(
    group: Group,
    norm: Norm | None,
    x: torch.Tensor,
    grad: torch.Tensor,
    residual: torch.Tensor,
    draws: Draws | None,
) -> torch.Tensor:
    """Give the gradient of what a half of the layer read, ``residual`` included."""
    inner = group.inner_grad(grad)
    found = group.backward(grad, inner, draws)
    if norm is None:
        group.add_grads(x, grad, inner, draws)
        return found.add_(residual)
    found, again = rmsnorm.backward(
        x, norm, found, residual=residual, again=group.adapter is not None
    )
    if again is not None:
        group.add_grads(again, grad, inner, draws)
    return found


def mlp_back(
    layer: Layer,
    grad: torch.Tensor,
    middle: torch.Tensor,
    gate_up: torch.Tensor,
    of_down: torch.Tensor | None,
    draws: Draws | None,
) -> torch.Tensor:
    """Give the gradient of the MLP's input; ``gate_up`` is overwritten by its own gradient."""
    of_y = of_product(grad, of_down, layer.down_norm, layer.added)
    inner = layer.down.inner_grad(of_y)
    hidden = glu.backward(gate_up, layer.down.backward(of_y, inner, draws), layer.gate)
    layer.down.add_grads(hidden, of_y, inner, draws)
    del hidden, of_y
    return into_half_back(layer.gate_up, layer.second_norm, middle, gate_up, grad, draws)


def out_back(
    layer: Layer,
    grad: torch.Tensor,
    out: torch.Tensor,
    of_out: torch.Tensor | None,
    draws: Draws | None,
) -> torch.Tensor:
    """Give the gradient of attention's output (lines × all heads)."""
    of_middle = of_product(grad, of_out, layer.out_norm, layer.added)
    inner = layer.out.inner_grad(of_middle)
    layer.out.add_grads(out, of_middle, inner, draws)
    return layer.out.backward(of_middle, inner, draws)


def _attention_back(
    layer: Layer,
    grad: torch.Tensor,
    x: torch.Tensor,
    kept: tuple[torch.Tensor, torch.Tensor, tuple[Any, ...], torch.Tensor | None],
    rows: Rows,
) -> torch.Tensor:
    qkv, out, sums, of_out = kept
    flat = out.reshape(x.shape[0], -1)
    of_heads = out_back(layer, grad, flat, of_out, rows.draws).view(out.shape)
    new = turned(layer, qkv, rows.position, in_place=False)
    grads = attention.backward(of_heads, new, out, sums, layer.heads, rows)
    del new, of_heads
    of_qkv = rope.join_and_turn_back(grads, rows.position, layer.turns)
    del grads
    head_norms_back(layer, qkv, of_qkv)
    return into_half_back(layer.qkv, layer.first_norm, x, of_qkv, grad, rows.draws)
