"""Attention over rows that lie one after the other: no row sees another, and nothing is padded."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from runner.training.kernels import capped_attention, gpu, packed_attention
from runner.training.kernels.heads import Heads
from runner.training.kernels.rows import FILL, Rows

_CUDNN_TOKENS = 4096  # shorter rows were not measured
_OF_CUDNN = 7  # what it keeps for the way back; flash keeps 3, ours 1
_OF_PACKED = 1


def forward(qkv: torch.Tensor, heads: Heads, rows: Rows) -> tuple[torch.Tensor, tuple[Any, ...]]:
    """Give the output (lines × heads × size) and what the way back needs."""
    q, k, v = heads.split(qkv)
    if heads.cap:
        return capped_attention.forward((q, k, v), heads, rows), ()
    if not qkv.is_cuda:
        return _reference(q, k, v, heads, rows), ()
    if _takes_cudnn(qkv, heads, rows):
        return _cudnn(q, k, v, heads)
    if _takes_packed(qkv, heads, rows):
        out, sums = packed_attention.forward(qkv, heads, rows)
        return out, (sums,)
    # aten's own operation takes fewer key/value heads as they are; `varlen_attn` wants them copied.
    out, sums, state, unused, _ = torch.ops.aten._flash_attention_forward(  # noqa: SLF001
        q,
        k,
        v,
        rows.starts,
        rows.starts,
        rows.longest,
        rows.longest,
        0.0,
        True,
        False,
        **_options(heads, rows),
    )
    return out, (sums, state, unused)


def backward(
    grad: torch.Tensor,
    qkv: torch.Tensor,
    out: torch.Tensor,
    kept: tuple[Any, ...],
    heads: Heads,
    rows: Rows,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give the gradients of queries, keys and values."""
    q, k, v = heads.split(qkv)
    if heads.cap:
        return capped_attention.backward(grad, (q, k, v), heads, rows)
    if not qkv.is_cuda:
        with torch.enable_grad():
            q, k, v = (part.detach().requires_grad_() for part in (q, k, v))
            found = torch.autograd.grad(_reference(q, k, v, heads, rows), (q, k, v), grad)
        return found[0], found[1], found[2]
    if len(kept) == _OF_CUDNN:
        return _cudnn_back(grad, (q, k, v), out, kept, heads)
    if len(kept) == _OF_PACKED:
        return packed_attention.backward(grad, qkv, out, kept[0], heads, rows)
    sums, state, unused = kept
    dq, dk, dv = torch.ops.aten._flash_attention_backward(  # noqa: SLF001
        grad,
        q,
        k,
        v,
        out,
        sums,
        rows.starts,
        rows.starts,
        rows.longest,
        rows.longest,
        0.0,
        True,
        state,
        unused,
        **_options(heads, rows),
    )
    return dq, dk, dv


def _takes_cudnn(qkv: torch.Tensor, heads: Heads, rows: Rows) -> bool:
    """Whether cuDNN's attention is used: for one long row, on cards where it was measured.

    For a row of 8,192 tokens on an H200 it made 595 and 487 TFLOP/s, forward and back, flash 317
    and 285; flash takes rows side by side, and windows. The filling behind the row is taken for a
    part of it: nobody learns from it, so it changes no gradient.
    """
    alone = len(rows.ends) == 2 or (len(rows.ends) == 3 and rows.ends[2] - rows.ends[1] < FILL)
    seen = heads.window is None or rows.longest <= heads.window
    fits = alone and seen and rows.longest >= _CUDNN_TOKENS and heads.size <= 128
    return fits and torch.cuda.get_device_capability(qkv.device)[0] == 9


def _takes_packed(qkv: torch.Tensor, heads: Heads, rows: Rows) -> bool:
    """Whether our own kernel is used: on cards where it was measured.

    For 16 rows of together 9,051 tokens (8B's heads, H200) flash took 0.35 and 0.94 ms, forward and
    back, ours 0.25 and 0.73; for two of 4,096 tokens 0.91 and 2.62 against 0.69 and 2.20.
    """
    seen = heads.window is None or rows.longest <= heads.window
    fits = seen and heads.size in packed_attention.SIZES and qkv.dtype == torch.bfloat16
    shared = heads.q_heads // heads.kv_heads
    fits = fits and shared <= packed_attention.MOST_SHARED and gpu.triton is not None
    return fits and torch.cuda.get_device_capability(qkv.device)[0] == 9


def _cudnn(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: Heads
) -> tuple[torch.Tensor, tuple[Any, ...]]:
    query, key, value = (part[None].transpose(1, 2) for part in (q, k, v))
    out, *kept, _ = torch.ops.aten._scaled_dot_product_cudnn_attention(  # noqa: SLF001
        query, key, value, None, True, 0.0, True, False, scale=heads.scale
    )
    return out.transpose(1, 2)[0], tuple(kept)


def _cudnn_back(
    grad: torch.Tensor,
    qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    out: torch.Tensor,
    kept: tuple[Any, ...],
    heads: Heads,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    sums, q_ends, k_ends, q_most, k_most, seed, offset = kept
    parts = (part[None].transpose(1, 2) for part in (grad, *qkv, out))
    found = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(  # noqa: SLF001
        *parts,
        sums,
        seed,
        offset,
        None,
        q_ends,
        k_ends,
        q_most,
        k_most,
        0.0,
        True,
        scale=heads.scale,
    )
    dq, dk, dv = (one.transpose(1, 2)[0] for one in found)
    return dq, dk, dv


def _options(heads: Heads, rows: Rows) -> dict[str, Any]:
    options: dict[str, Any] = {"scale": heads.scale}
    if heads.window is not None and rows.longest > heads.window:
        options |= {"window_size_left": heads.window - 1, "window_size_right": 0}
    return options


def _reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: Heads, rows: Rows
) -> torch.Tensor:
    found = []
    for start, end in zip(rows.ends[:-1], rows.ends[1:], strict=True):
        query, key, value = (part[start:end].transpose(0, 1) for part in (q, k, v))
        repeats = heads.q_heads // heads.kv_heads
        at = torch.arange(end - start, device=q.device)
        behind = at[:, None] - at[None, :]
        seen = behind >= 0
        if heads.window is not None:
            seen &= behind < heads.window
        one = functional.scaled_dot_product_attention(
            query,
            key.repeat_interleave(repeats, 0),
            value.repeat_interleave(repeats, 0),
            attn_mask=seen,
            scale=heads.scale,
        )
        found.append(one.transpose(0, 1))
    return torch.cat(found)
