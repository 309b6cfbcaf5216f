"""NF4 weights: unpacked by one kernel, double quantisation included, as bitsandbytes unpacks them.

bitsandbytes takes two launches and an intermediate tensor for each projection; here projections
that read the same tensor lie side by side and are unpacked by one launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from runner.training.kernels.gpu import jit, runs_kernels, tl, triton

BLOCK = 64  # weights that share one scale: bitsandbytes' default, and the only one read here
BLOCK_2 = 256  # scales that share one scale of their own (double quantisation)
CODE = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The 16 values of NF4 (QLoRA, appendix E). bitsandbytes' kernels hold them in fp32; its state
of a weight may hold rounded ones, where a model was made with another default type."""
_ROWS = 64  # of one program; with 4 warps the quickest of eleven tiles tried on an H200
_MOST_STEPS = 8  # blocks of columns that one program goes through


@dataclass(frozen=True, kw_only=True)
class Nf4Piece:
    """NF4 weights of one or more projections, stacked by rows."""

    packed: torch.Tensor
    """Two weights a byte, the first in the high half."""
    scales: torch.Tensor
    """One byte a block of 64 weights: an index into ``scale_code``."""
    scales_2: torch.Tensor
    """One fp32 for 256 of those."""
    offsets: torch.Tensor
    """What is added to a scale; as many as ``scales_2``, since each projection has its own."""
    scale_code: torch.Tensor
    code: torch.Tensor
    rows: int
    columns: int

    def unpack_into(self, out: torch.Tensor) -> None:
        """Write the weights into ``out`` (rows × columns, rows may lie apart)."""
        if runs_kernels(out):
            self._launch(out)
        else:
            out.copy_(unpack_reference(self, out.dtype))

    def _launch(self, out: torch.Tensor) -> None:
        blocks = self.columns // BLOCK
        steps = next(s for s in (_MOST_STEPS, 7, 6, 5, 4, 3, 2, 1) if blocks % s == 0)
        _unpack[(triton.cdiv(self.rows, _ROWS), blocks // steps)](
            self.packed,
            self.scales,
            self.scales_2,
            self.offsets,
            self.scale_code,
            self.code,
            out,
            self.rows,
            self.columns,
            out.stride(0),
            ROWS=_ROWS,
            STEPS=steps,
            num_warps=4,
            # A fused multiply-add rounds a scale once where bitsandbytes rounds it twice.
            enable_fp_fusion=False,
        )


def unpack_reference(piece: Nf4Piece, dtype: torch.dtype) -> torch.Tensor:
    """Unpack with torch alone."""
    wide = piece.scales_2.repeat_interleave(BLOCK_2)[: piece.scales.numel()]
    added = piece.offsets.repeat_interleave(BLOCK_2)[: piece.scales.numel()]
    scales = piece.scale_code[piece.scales.long()] * wide + added
    halves = torch.stack((piece.packed >> 4, piece.packed & 15), dim=-1)
    weights = piece.code[halves.long()].view(-1, BLOCK) * scales[:, None]
    return weights.view(piece.rows, piece.columns).to(dtype)


@jit
def _unpack(
    packed,
    scales,
    scales_2,
    offsets,
    scale_code,
    code,
    out,
    height,
    width,
    stride,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
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
        to = out + rows.to(tl.int64)[:, None] * stride + first + columns[None, :]
        tl.store(to, weights.to(out.dtype.element_ty), mask=there[:, None])


def unreadable(weight: Any) -> str | None:
    """Say why a bitsandbytes weight cannot be unpacked here; None: it can."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return "a weight that is not quantised yet"
    if state.quant_type != "nf4" or not state.nested:
        return "another quantisation than NF4 with double quantisation"
    if state.blocksize != BLOCK or state.state2.blocksize != BLOCK_2:
        return "NF4 with unusual block sizes"
    height, width = state.shape
    if width % BLOCK:
        return f"a layer of width {width:,}, no multiple of 64"
    if height * width >= 2**31:
        return "a layer of more than 2,147,483,647 weights"
    return None


def stack(weights: Sequence[Any]) -> list[Nf4Piece]:
    """Lay NF4 weights side by side; their modules keep working, on views of the same storage.

    A projection whose scales do not fill whole blocks of 256 stays a piece of its own.
    """
    aligned = all(w.quant_state.absmax.numel() % BLOCK_2 == 0 for w in weights[:-1])
    return [_piece(weights)] if aligned else [_piece([weight]) for weight in weights]


def _piece(weights: Sequence[Any]) -> Nf4Piece:
    states = [weight.quant_state for weight in weights]
    packed = _joined([weight.data.reshape(-1) for weight in weights])
    scales = _joined([state.absmax.reshape(-1) for state in states])
    at = scale_at = 0
    for weight, state in zip(weights, states, strict=True):
        size, scale_size = weight.data.numel(), state.absmax.numel()
        weight.data = packed[at : at + size].view(weight.data.shape)
        state.absmax = scales[scale_at : scale_at + scale_size]
        at, scale_at = at + size, scale_at + scale_size
    return Nf4Piece(
        packed=packed,
        scales=scales,
        scales_2=_joined([state.state2.absmax.float() for state in states]),
        offsets=_joined(
            [
                state.offset.float().reshape(1).expand(state.state2.absmax.numel())
                for state in states
            ]
        ).contiguous(),
        scale_code=states[0].state2.code.float(),
        code=torch.tensor(CODE, device=packed.device),
        rows=sum(int(state.shape[0]) for state in states),
        columns=int(states[0].shape[1]),
    )


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
