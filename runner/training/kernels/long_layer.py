"""A decoder layer for one long row: all but attention goes tile by tile, and the host keeps.

A layer's input and attention's output wait in the host's memory, so that attention is not computed
twice; queries, keys and values and the MLP are made again. What is on the card at once does not
grow with the number of layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from runner.forecast.passes import TILE
from runner.training.kernels import attention, glu, rope
from runner.training.kernels.dropout import Draws, at
from runner.training.kernels.host_store import HostStore
from runner.training.kernels.layer import (
    Layer,
    add,
    head_norms_back,
    into_half_back,
    mlp_back,
    out_back,
    projected,
    through_down,
    turned,
)
from runner.training.kernels.rows import Rows


class LongLayerFunction(torch.autograd.Function):
    """One decoder layer; LoRA's gradients are added to their sums on the way back."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, layer: Layer, rows: Rows, number: int, store: HostStore | None
    ) -> torch.Tensor:
        """Give the layer's output; ``number`` is its place; no store: no way back."""
        out, ctx.sums = attention.forward(_queries(layer, x, rows), layer.heads, rows)
        out = out.reshape(x.shape[0], -1)
        if store is not None:
            store.put(number, (x, out))
        y = torch.empty_like(x)
        for here in _tiles(x):
            draws = at(rows.draws, here)
            middle, gate_up, _ = _through(layer, x[here], out[here], draws)
            y[here] = through_down(layer, gate_up, middle, draws)[0]
        ctx.layer, ctx.rows, ctx.number, ctx.store = layer, rows, number, store
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """Give the gradient of the input."""
        layer, rows = ctx.layer, ctx.rows
        x, out = ctx.store.get(ctx.number)
        of_middle, of_out = torch.empty_like(x), torch.empty_like(out)
        for here in _tiles(x):
            draws = at(rows.draws, here)
            middle, gate_up, product = _through(layer, x[here], out[here], draws)
            of_down = _of_down(layer, gate_up, draws)
            found = mlp_back(layer, grad[here].contiguous(), middle, gate_up, of_down, draws)
            of_out[here] = out_back(layer, found, out[here], product, draws)
            of_middle[here] = found
        del middle, gate_up, product, of_down, found, grad
        heads = (x.shape[0], layer.heads.q_heads, layer.heads.size)
        grads = attention.backward(
            of_out.view(heads),
            _queries(layer, x, rows),
            out.view(heads),
            ctx.sums,
            layer.heads,
            rows,
        )
        ctx.sums = None
        del of_out
        for here in _tiles(x):
            of_middle[here] = _queries_back(layer, x[here], grads, of_middle, rows, here)
        return of_middle, None, None, None, None


def _tiles(x: torch.Tensor) -> Iterator[slice]:
    for start in range(0, x.shape[0], TILE):
        yield slice(start, min(start + TILE, x.shape[0]))


def _queries(layer: Layer, x: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Give queries, keys and values, normed and turned."""
    qkv = torch.empty(x.shape[0], layer.heads.width, dtype=x.dtype, device=x.device)
    for here in _tiles(x):
        part = projected(layer.qkv, x[here], layer.first_norm, at(rows.draws, here))
        qkv[here] = turned(layer, part, rows.position[here], in_place=True)
    return qkv


def _through(
    layer: Layer, x: torch.Tensor, out: torch.Tensor, draws: Draws | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Give the MLP's input, gate and up, and what attention added where a norm needs it."""
    middle, product = add(layer.out, out, x, layer.out_norm, layer.added, draws)
    return middle, projected(layer.gate_up, middle, layer.second_norm, draws), product


def _of_down(layer: Layer, gate_up: torch.Tensor, draws: Draws | None) -> torch.Tensor | None:
    """Make the MLP's output again where the norm behind it needs it."""
    if layer.down_norm is None:
        return None
    return layer.down.forward(glu.forward(gate_up, layer.gate), draws=draws)


def _queries_back(
    layer: Layer,
    x: torch.Tensor,
    grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    residual: torch.Tensor,
    rows: Rows,
    here: slice,
) -> torch.Tensor:
    """Give the gradient of a tile of the input."""
    dq, dk, dv = (one[here] for one in grads)
    draws = at(rows.draws, here)
    of_qkv = rope.join_and_turn_back((dq, dk, dv), rows.position[here], layer.turns)
    if layer.head_norms is not None:
        qkv = projected(layer.qkv, x, layer.first_norm, draws)
        head_norms_back(layer, qkv, of_qkv)
    return into_half_back(layer.qkv, layer.first_norm, x, of_qkv, residual[here], draws)
