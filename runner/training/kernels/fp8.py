"""FP8: the base's products in eight bits (e4m3), for `speed: fp8`; LoRA's stay exact.

Every line of what goes into a product is scaled by its own largest number, and so is every line of
the weight: by its rows on the way forward, by its columns on the way back, where it lies turned.
Cards of compute capability 8.9 and newer multiply so twice as fast as in bf16. What it costs is
precision: gradients are off by a quarter where bf16's are off by a fortieth (measurements.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from runner.training.kernels.gpu import jit, runs_kernels, tl, triton
from runner.training.kernels.nf4 import Nf4Piece, unpack_reference

FP8 = torch.float8_e4m3fn
LARGEST = 448.0  # that e4m3 can hold
_SMALLEST = 1e-12  # a line of zeros is divided by it
_BLOCK = 4096  # numbers of a line that are looked at at once
_ROWS = 64  # of one program that unpacks, as in nf4.py
_MOST_STEPS = 8
_MULTIPLE = 16  # widths of a product in fp8 are multiples of it


@dataclass(frozen=True, kw_only=True)
class Scales:
    """The largest number of each row and each column of a weight, divided by what fp8 can hold."""

    rows: torch.Tensor
    columns: torch.Tensor


def scales_of(weight: torch.Tensor) -> Scales:
    """Find the scales of a weight: outputs × inputs."""
    found = [
        (torch.linalg.vector_norm(weight, float("inf"), dim=axis).float() / LARGEST).clamp(
            min=_SMALLEST
        )
        for axis in (1, 0)
    ]
    return Scales(rows=found[0], columns=found[1])


def unfit(outputs: int, inputs: int) -> str | None:
    """Say why a weight of this shape cannot be multiplied in fp8; None: it can."""
    if outputs % _MULTIPLE or inputs % _MULTIPLE:
        return f"a product of {outputs:,} × {inputs:,}, no multiples of {_MULTIPLE}"
    return None


class Scratch:
    """One place for the lines of every product, as large as the largest so far.

    Taken anew for each product, they left holes that nothing else fits into: 8B ran out of memory
    under 14.5 and 22.5 GiB with 1.4 and 2.9 GiB of them.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._place: torch.Tensor | None = None

    def take(self, count: int, width: int, device: torch.device) -> torch.Tensor:
        """Give room for lines; what was there before is no longer needed."""
        if self._place is None or self._place.numel() < count * width:
            self._place = None  # given back before more is taken
            self._place = torch.empty(count * width, dtype=FP8, device=device)
        return self._place[: count * width].view(count, width)

    def forget(self) -> None:
        """Give the memory back."""
        self._place = None


def lines(x: torch.Tensor, scratch: Scratch) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the lines in fp8, which the next call overwrites, and the scale of each (a column)."""
    x = x.contiguous()
    count, width = x.shape
    if not runs_kernels(x):
        scale = (x.float().abs().amax(1, keepdim=True) / LARGEST).clamp(min=_SMALLEST)
        return scratch.take(count, width, x.device).copy_(_rounded(x.float() / scale)), scale
    y = scratch.take(count, width, x.device)
    scale = torch.empty(count, 1, dtype=torch.float32, device=x.device)
    _lines[(count,)](x, y, scale, WIDTH=width, BLOCK=_BLOCK, num_warps=8)
    return y, scale


def product(
    x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, scratch: Scratch
) -> torch.Tensor:
    """Give x times the weight, which lies turned: a line for each column of what is given.

    Args:
        x: lines × inputs.
        weight: outputs × inputs, in fp8.
        scales: of the weight's lines.
        scratch: where the lines are written in fp8.
    """
    eighth, scale = lines(x, scratch)
    if not x.is_cuda:
        return ((eighth.float() @ weight.float().t()) * scale * scales).to(x.dtype)
    return torch._scaled_mm(  # noqa: SLF001  (torch has no other name for it)
        eighth, weight.t(), scale, scales[None], out_dtype=x.dtype, use_fast_accum=True
    )


def unpack(
    pieces: Sequence[Nf4Piece], out: torch.Tensor, scales: torch.Tensor, *, turned: bool
) -> None:
    """Write NF4 weights in fp8: by rows, or turned and scaled by columns."""
    at = 0
    for piece in pieces:
        here = slice(at, at + piece.rows)
        to = out[:, here] if turned else out[here]
        own = scales if turned else scales[here]
        if runs_kernels(out):
            _launch(piece, to, own, turned=turned)
        else:
            weight = unpack_reference(piece, torch.float32)
            to.copy_(_rounded((weight / own).t() if turned else weight / own[:, None]))
        at += piece.rows


def _rounded(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-LARGEST, LARGEST).to(FP8)


def _launch(piece: Nf4Piece, to: torch.Tensor, scales: torch.Tensor, *, turned: bool) -> None:
    blocks = piece.columns // 64
    steps = next(s for s in (_MOST_STEPS, 7, 6, 5, 4, 3, 2, 1) if blocks % s == 0)
    _unpack[(triton.cdiv(piece.rows, _ROWS), blocks // steps)](
        piece.packed,
        piece.scales,
        piece.scales_2,
        piece.offsets,
        piece.scale_code,
        piece.code,
        scales,
        to,
        piece.rows,
        piece.columns,
        to.stride(0),
        ROWS=_ROWS,
        STEPS=steps,
        TURNED=turned,
        num_warps=4,
    )


@jit
def _lines(x, y, factors, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    line = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    most = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, WIDTH, BLOCK):
        there = start + columns < WIDTH
        part = tl.load(x + line * WIDTH + start + columns, mask=there, other=0.0)
        most = tl.maximum(most, tl.abs(part.to(tl.float32)))
    largest = tl.maximum(tl.max(most) / 448.0, 1e-12)
    tl.store(factors + line, largest)
    for start in range(0, WIDTH, BLOCK):
        there = start + columns < WIDTH
        part = tl.load(x + line * WIDTH + start + columns, mask=there, other=0.0)
        part = part.to(tl.float32) / largest
        part = tl.minimum(tl.maximum(part, -448.0), 448.0)
        tl.store(y + line * WIDTH + start + columns, part.to(y.dtype.element_ty), mask=there)


@jit
def _unpack(
    packed,
    scales,
    scales_2,
    offsets,
    scale_code,
    code,
    factors,
    out,
    height,
    width,
    stride,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    TURNED: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = rows < height
    pairs = tl.arange(0, 32)
    columns = tl.arange(0, 64)
    for step in range(STEPS):
        first = (tl.program_id(1) * STEPS + step) * 64
        block = (rows * width + first) // 64
        scale = tl.load(scale_code + tl.load(scales + block, mask=there, other=0).to(tl.int32))
        scale = scale * tl.load(scales_2 + block // 256, mask=there, other=0.0)
        scale = scale + tl.load(offsets + block // 256, mask=there, other=0.0)
        at = packed + (rows[:, None] * width + first) // 2 + pairs[None, :]
        byte = tl.load(at, mask=there[:, None], other=0).to(tl.int32)
        high = tl.load(code + (byte >> 4))
        low = tl.load(code + (byte & 15))
        weights = tl.interleave(high, low) * scale[:, None]
        if TURNED:
            weights = weights / tl.load(factors + first + columns)[None, :]
            weights = tl.minimum(tl.maximum(weights, -448.0), 448.0)
            to = out + (first + columns).to(tl.int64)[:, None] * stride + rows[None, :]
            turned = tl.trans(weights.to(out.dtype.element_ty))
            tl.store(to, turned, mask=there[None, :])
        else:
            weights = weights / tl.load(factors + rows, mask=there, other=1.0)[:, None]
            weights = tl.minimum(tl.maximum(weights, -448.0), 448.0)
            to = out + rows.to(tl.int64)[:, None] * stride + first + columns[None, :]
            tl.store(to, weights.to(out.dtype.element_ty), mask=there[:, None])
