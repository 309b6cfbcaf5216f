"""Norms (RMSNorm, LayerNorm): one pass over memory each way; the way back makes the output again.

A row is ``width`` long. Rows may be the heads of a wider matrix: ``heads`` of them lie side by side
in each line of it (the norms of queries and keys).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from runner.training.kernels.gpu import jit, next_power_of_2, runs_kernels, tl, warps_for


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A layer norm's numbers."""

    weight: torch.Tensor
    """fp32; where the model multiplies by one plus its weight, that sum."""
    eps: float
    late: bool
    """The weight is applied before the result is rounded (Gemma, OLMo 2), not after (Llama)."""
    bias: torch.Tensor | None = None
    """fp32."""
    centred: bool = False
    """The mean is taken away first: LayerNorm."""


def forward(
    x: torch.Tensor,
    norm: Norm,
    *,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Normalise the rows of ``x``: lines × width, or lines × heads × width; add ``residual``."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    if not runs_kernels(x):
        found = reference(x, norm)
        return y.copy_(found if residual is None else found + residual)
    rows, heads, width = _shape(x)
    _forward[(rows,)](
        x,
        norm.weight,
        norm.weight if norm.bias is None else norm.bias,
        x if residual is None else residual,
        y,
        x.stride(0),
        y.stride(0),
        heads,
        width,
        norm.eps,
        BIAS=norm.bias is not None,
        CENTRED=norm.centred,
        RESIDUAL=residual is not None,
        LATE=norm.late,
        BLOCK=next_power_of_2(width),
        num_warps=warps_for(width),
    )
    return y


def backward(
    x: torch.Tensor,
    norm: Norm,
    grad: torch.Tensor,
    *,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    again: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Give the gradient of the input (plus ``residual``), and, where wanted, the output again."""
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device) if again else None
    if not runs_kernels(x):
        found = backward_reference(x, norm, grad)
        dx.copy_(found if residual is None else found + residual)
        return dx, reference(x, norm) if again else None
    rows, heads, width = _shape(x)
    _backward[(rows,)](
        x,
        norm.weight,
        norm.weight if norm.bias is None else norm.bias,
        grad,
        grad if residual is None else residual,
        dx,
        dx if y is None else y,
        x.stride(0),
        grad.stride(0),
        dx.stride(0),
        heads,
        width,
        norm.eps,
        BIAS=norm.bias is not None,
        CENTRED=norm.centred,
        RESIDUAL=residual is not None,
        AGAIN=again,
        LATE=norm.late,
        BLOCK=next_power_of_2(width),
        num_warps=warps_for(width),
    )
    return dx, y


def reference(x: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Normalise with torch alone."""
    scaled = _unit(x, norm)[0]
    if not norm.late:
        scaled = scaled.to(x.dtype).float()
    scaled = scaled * norm.weight
    return (scaled if norm.bias is None else scaled + norm.bias).to(x.dtype)


def backward_reference(x: torch.Tensor, norm: Norm, grad: torch.Tensor) -> torch.Tensor:
    """Differentiate with torch alone."""
    dy = grad.float() * norm.weight
    unit, scale = _unit(x, norm)
    found = dy - unit * (dy * unit).mean(-1, keepdim=True)
    if norm.centred:
        found -= dy.mean(-1, keepdim=True)
    return (scale * found).to(x.dtype)


def _unit(x: torch.Tensor, norm: Norm) -> tuple[torch.Tensor, torch.Tensor]:
    wide = x.float()
    if norm.centred:
        wide = wide - wide.mean(-1, keepdim=True)
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.eps)
    return wide * scale, scale


def _shape(x: torch.Tensor) -> tuple[int, int, int]:
    lines, width = x.shape[0], x.shape[-1]
    heads = x.shape[1] if x.dim() == 3 else 1
    return lines * heads, heads, width


@jit
def _forward(
    x,
    weight,
    bias,
    residual,
    y,
    x_stride,
    y_stride,
    heads,
    width,
    eps,
    BIAS: tl.constexpr,
    CENTRED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    LATE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    line = row // heads
    head = (row % heads) * width
    column = tl.arange(0, BLOCK)
    there = column < width
    v = tl.load(x + line * x_stride + head + column, mask=there, other=0.0).to(tl.float32)
    if CENTRED:
        v = tl.where(there, v - tl.sum(v) / width, 0.0)
    n = v * tl.rsqrt(tl.sum(v * v) / width + eps)
    if not LATE:
        n = n.to(y.dtype.element_ty).to(tl.float32)
    n = n * tl.load(weight + column, mask=there, other=0.0)
    if BIAS:
        n += tl.load(bias + column, mask=there, other=0.0)
    if RESIDUAL:  # contiguous: only whole lines are added to
        n = n.to(y.dtype.element_ty).to(tl.float32)
        n += tl.load(residual + row * width + column, mask=there, other=0.0).to(tl.float32)
    tl.store(y + line * y_stride + head + column, n.to(y.dtype.element_ty), mask=there)


@jit
def _backward(
    x,
    weight,
    bias,
    grad,
    residual,
    dx,
    y,
    x_stride,
    grad_stride,
    dx_stride,
    heads,
    width,
    eps,
    BIAS: tl.constexpr,
    CENTRED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    AGAIN: tl.constexpr,
    LATE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    line = row // heads
    head = (row % heads) * width
    column = tl.arange(0, BLOCK)
    there = column < width
    v = tl.load(x + line * x_stride + head + column, mask=there, other=0.0).to(tl.float32)
    g = tl.load(grad + line * grad_stride + head + column, mask=there, other=0.0).to(tl.float32)
    w = tl.load(weight + column, mask=there, other=0.0)
    if CENTRED:
        v = tl.where(there, v - tl.sum(v) / width, 0.0)
    scale = tl.rsqrt(tl.sum(v * v) / width + eps)
    unit = v * scale
    if AGAIN:  # contiguous, like the residual: only whole lines are asked for
        n = unit
        if not LATE:
            n = n.to(y.dtype.element_ty).to(tl.float32)
        n = n * w
        if BIAS:
            n += tl.load(bias + column, mask=there, other=0.0)
        tl.store(y + row * width + column, n.to(y.dtype.element_ty), mask=there)
    g = g * w
    d = g - unit * (tl.sum(g * unit) / width)
    if CENTRED:
        d -= tl.sum(g) / width
    d = scale * d
    if RESIDUAL:
        d += tl.load(residual + row * width + column, mask=there, other=0.0).to(tl.float32)
    tl.store(dx + line * dx_stride + head + column, d.to(dx.dtype.element_ty), mask=there)
