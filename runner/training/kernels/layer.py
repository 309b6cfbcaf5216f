"""A decoder layer with a frozen base as one autograd function: no large product is made twice.

Frozen weights need no gradient, so the way back is the gradient of the input and LoRA's thin
products. A layer that keeps everything holds its two residual inputs, queries, keys and values,
attention's output and row sums, gate and up; norms and the gate are made again, which costs memory
traffic and no product. A layer that keeps its input alone makes all but down_proj again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from runner.training.kernels import attention, glu, rmsnorm, rope
from runner.training.kernels.attention import Heads
from runner.training.kernels.glu import Gate
from runner.training.kernels.projection import Group
from runner.training.kernels.rmsnorm import Norm
from runner.training.kernels.rope import Turns
from runner.training.kernels.rows import Rows


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The parts of one decoder layer."""

    first_norm: Norm
    second_norm: Norm
    qkv: Group
    out: Group
    gate_up: Group
    down: Group
    heads: Heads
    head_norms: tuple[Norm, Norm] | None
    """Of each head's queries and keys, before they are turned (Qwen 3)."""
    gate: Gate
    turns: Turns

    @property
    def groups(self) -> tuple[Group, Group, Group, Group]:
        """Its products."""
        return self.qkv, self.out, self.gate_up, self.down


class LayerFunction(torch.autograd.Function):
    """One decoder layer; LoRA's gradients are added to their sums on the way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Layer, rows: Rows, keep: bool) -> torch.Tensor:  # noqa: FBT001
        """Give the layer's output."""
        qkv, out, kept, middle = _attend(layer, x, rows)
        gate_up = layer.gate_up.forward(rmsnorm.forward(middle, layer.second_norm))
        y = layer.down.forward(glu.forward(gate_up, layer.gate), middle)
        ctx.layer, ctx.rows, ctx.keep = layer, rows, keep
        if keep:
            # Not all through save_for_backward: the MLP's half is freed in the middle of the way.
            ctx.kept, ctx.mlp = kept, (middle, gate_up)
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
            kept, (middle, gate_up), ctx.mlp = ctx.kept, ctx.mlp, None
        else:
            (x,) = ctx.saved_tensors
            qkv, out, kept, middle = _attend(layer, x, rows)
            gate_up = layer.gate_up.forward(rmsnorm.forward(middle, layer.second_norm))
        grad = mlp_back(layer, grad.contiguous(), middle, gate_up)
        del middle, gate_up
        return _attention_back(layer, grad, x, (qkv, out, kept), rows), None, None, None


def _attend(
    layer: Layer, x: torch.Tensor, rows: Rows
) -> tuple[torch.Tensor, torch.Tensor, tuple[Any, ...], torch.Tensor]:
    qkv = layer.qkv.forward(rmsnorm.forward(x, layer.first_norm))
    new = turned(layer, qkv, rows.position, in_place=True)
    out, kept = attention.forward(new, layer.heads, rows)
    middle = layer.out.forward(out.reshape(x.shape[0], -1), x)
    return qkv, out, kept, middle


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
        rmsnorm.forward(of_old[at], norm, out=of_new[at])
    of_new[2].copy_(of_old[2])
    rope.turn(new, heads.q_heads + heads.kv_heads, heads.size, position, layer.turns)
    return new


def mlp_back(
    layer: Layer, grad: torch.Tensor, middle: torch.Tensor, gate_up: torch.Tensor
) -> torch.Tensor:
    """Give the gradient of the MLP's input; ``gate_up`` is overwritten by its own gradient."""
    inner = layer.down.inner_grad(grad)
    hidden = glu.backward(gate_up, layer.down.backward(grad, inner), layer.gate)
    layer.down.add_grads(hidden, grad, inner)
    del hidden
    inner = layer.gate_up.inner_grad(gate_up)
    of_normed = layer.gate_up.backward(gate_up, inner)
    found, normed = rmsnorm.backward(
        middle, layer.second_norm, of_normed, residual=grad, again=layer.gate_up.adapter is not None
    )
    if normed is not None:
        layer.gate_up.add_grads(normed, gate_up, inner)
    return found


def _attention_back(
    layer: Layer,
    grad: torch.Tensor,
    x: torch.Tensor,
    kept: tuple[torch.Tensor, torch.Tensor, tuple[Any, ...]],
    rows: Rows,
) -> torch.Tensor:
    qkv, out, sums = kept
    heads, lines = layer.heads, x.shape[0]
    inner = layer.out.inner_grad(grad)
    of_out = layer.out.backward(grad, inner)
    layer.out.add_grads(out.reshape(lines, -1), grad, inner)
    new = turned(layer, qkv, rows.position, in_place=False)
    grads = attention.backward(of_out.view(out.shape), new, out, sums, heads, rows)
    del new, of_out
    of_qkv = rope.join_and_turn_back(grads, rows.position, layer.turns)
    del grads
    if layer.head_norms is not None:
        of_old, of_new = heads.split(qkv), heads.split(of_qkv)
        for at, norm in enumerate(layer.head_norms):
            rmsnorm.backward(of_old[at], norm, of_new[at], out=of_new[at])
    inner = layer.qkv.inner_grad(of_qkv)
    of_normed = layer.qkv.backward(of_qkv, inner)
    found, normed = rmsnorm.backward(
        x, layer.first_norm, of_normed, residual=grad, again=layer.qkv.adapter is not None
    )
    if normed is not None:
        layer.qkv.add_grads(normed, of_qkv, inner)
    return found
