"""RMSNorm, forward and backward: one pass over memory each; the way back makes the output again.

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
    """The weight is applied before the result is rounded (Gemma), not after (Llama)."""


def forward(x: torch.Tensor, norm: Norm, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Normalise the rows of ``x``: lines × width, or lines × heads × width."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    if not runs_kernels(x):
        return y.copy_(reference(x, norm))
    rows, heads, width = _shape(x)
    _forward[(rows,)](
        x,
        norm.weight,
        y,
        x.stride(0),
        y.stride(0),
        heads,
        width,
        norm.eps,
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
        RESIDUAL=residual is not None,
        AGAIN=again,
        LATE=norm.late,
        BLOCK=next_power_of_2(width),
        num_warps=warps_for(width),
    )
    return dx, y


def reference(x: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Normalise with torch alone."""
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.eps)
    if not norm.late:
        scaled = scaled.to(x.dtype).float()
    return (scaled * norm.weight).to(x.dtype)


def backward_reference(x: torch.Tensor, norm: Norm, grad: torch.Tensor) -> torch.Tensor:
    """Differentiate with torch alone."""
    wide, dy = x.float(), grad.float() * norm.weight
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.eps)
    unit = wide * scale
    return (scale * (dy - unit * (dy * unit).mean(-1, keepdim=True))).to(x.dtype)


def _shape(x: torch.Tensor) -> tuple[int, int, int]:
    lines, width = x.shape[0], x.shape[-1]
    heads = x.shape[1] if x.dim() == 3 else 1
    return lines * heads, heads, width


@jit
def _forward(
    x,
    weight,
    y,
    x_stride,
    y_stride,
    heads,
    width,
    eps,
    LATE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    line = row // heads
    head = (row % heads) * width
    column = tl.arange(0, BLOCK)
    there = column < width
    v = tl.load(x + line * x_stride + head + column, mask=there, other=0.0).to(tl.float32)
    n = v * tl.rsqrt(tl.sum(v * v) / width + eps)
    if not LATE:
        n = n.to(y.dtype.element_ty).to(tl.float32)
    n = n * tl.load(weight + column, mask=there, other=0.0)
    tl.store(y + line * y_stride + head + column, n.to(y.dtype.element_ty), mask=there)


@jit
def _backward(
    x,
    weight,
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
    scale = tl.rsqrt(tl.sum(v * v) / width + eps)
    unit = v * scale
    if AGAIN:  # contiguous, like the residual: only whole lines are asked for
        n = unit
        if not LATE:
            n = n.to(y.dtype.element_ty).to(tl.float32)
        tl.store(y + row * width + column, (n * w).to(y.dtype.element_ty), mask=there)
    g = g * w
    d = scale * (g - unit * (tl.sum(g * unit) / width))
    if RESIDUAL:
        d += tl.load(residual + row * width + column, mask=there, other=0.0).to(tl.float32)
    tl.store(dx + line * dx_stride + head + column, d.to(dx.dtype.element_ty), mask=there)
