"""The gate of the MLP (SwiGLU, GeGLU): act(gate) × up, and its gradients written over gate and up.

``gate_up`` holds gate and up side by side, line by line.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch.nn import functional

from runner.training.kernels.gpu import jit, next_power_of_2, runs_kernels, tl, triton

_BLOCK = 1024  # columns of one program: elementwise, so only large enough to fill its loads


class Gate(IntEnum):
    """What the gate goes through."""

    SILU = 0
    GELU_TANH = 1
    GELU = 2


def forward(gate_up: torch.Tensor, gate: Gate, out: torch.Tensor | None = None) -> torch.Tensor:
    """Give act(gate) × up, in ``out`` if given, whose lines may lie apart."""
    lines, width = gate_up.shape[0], gate_up.shape[1] // 2
    if not runs_kernels(gate_up):
        found = _activated(gate_up[:, :width], gate) * gate_up[:, width:]
        return found if out is None else out.copy_(found)
    h = (
        torch.empty(lines, width, dtype=gate_up.dtype, device=gate_up.device)
        if out is None
        else out
    )
    block = min(_BLOCK, next_power_of_2(width))
    _forward[(lines, triton.cdiv(width, block))](
        gate_up, h, width, h.stride(0), GATE=int(gate), BLOCK=block
    )
    return h


def backward(gate_up: torch.Tensor, grad: torch.Tensor, gate: Gate) -> torch.Tensor:
    """Write the gradients over ``gate_up``, and the output, made again, over ``grad``; give it."""
    lines, width = gate_up.shape[0], gate_up.shape[1] // 2
    if not runs_kernels(gate_up):
        return _backward_reference(gate_up, grad, gate)
    block = min(_BLOCK, next_power_of_2(width))
    _backward[(lines, triton.cdiv(width, block))](gate_up, grad, width, GATE=int(gate), BLOCK=block)
    return grad


def _activated(x: torch.Tensor, gate: Gate) -> torch.Tensor:
    if gate is Gate.SILU:
        return functional.silu(x)
    return functional.gelu(x, approximate="tanh" if gate is Gate.GELU_TANH else "none")


def _backward_reference(gate_up: torch.Tensor, grad: torch.Tensor, gate: Gate) -> torch.Tensor:
    width = grad.shape[1]
    with torch.enable_grad():
        leaf = gate_up.detach().clone().requires_grad_()
        h = _activated(leaf[:, :width], gate) * leaf[:, width:]
        (found,) = torch.autograd.grad(h, leaf, grad)
    gate_up.copy_(found)
    return grad.copy_(h.detach())


@jit
def _act(g, GATE: tl.constexpr):
    """Give the activation and its derivative."""
    if GATE == 0:
        s = tl.sigmoid(g)
        return g * s, s * (1 + g * (1 - s))
    if GATE == 2:
        # The normal distribution and its density: 1/sqrt(2), 1/sqrt(2 pi)
        below = 0.5 * (1 + tl.erf(g * 0.7071067811865476))
        return g * below, below + g * 0.3989422804014327 * tl.exp(-0.5 * g * g)
    # tanh(z) as 2 sigmoid(2 z) - 1; 0.7978845608 is the square root of 2/pi
    z = 0.7978845608028654 * (g + 0.044715 * g * g * g)
    t = 2 * tl.sigmoid(2 * z) - 1
    slope = 0.7978845608028654 * (1 + 3 * 0.044715 * g * g)
    return 0.5 * g * (1 + t), 0.5 * (1 + t) + 0.5 * g * (1 - t * t) * slope


@jit
def _forward(
    gate_up,
    h,
    width,
    h_stride,
    GATE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    line = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < width
    at = gate_up + line * 2 * width + column
    g = tl.load(at, mask=there, other=0.0).to(tl.float32)
    u = tl.load(at + width, mask=there, other=0.0).to(tl.float32)
    a, _ = _act(g, GATE)
    a = a.to(h.dtype.element_ty).to(tl.float32)  # as torch rounds it
    tl.store(h + line * h_stride + column, (a * u).to(h.dtype.element_ty), mask=there)


@jit
def _backward(
    gate_up,
    grad,
    width,
    GATE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    line = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < width
    at = gate_up + line * 2 * width + column
    to = grad + line * width + column
    g = tl.load(at, mask=there, other=0.0).to(tl.float32)
    u = tl.load(at + width, mask=there, other=0.0).to(tl.float32)
    d = tl.load(to, mask=there, other=0.0).to(tl.float32)
    a, slope = _act(g, GATE)
    tl.store(to, (a * u).to(grad.dtype.element_ty), mask=there)
    tl.store(at, (d * u * slope).to(gate_up.dtype.element_ty), mask=there)
    tl.store(at + width, (d * a).to(gate_up.dtype.element_ty), mask=there)
