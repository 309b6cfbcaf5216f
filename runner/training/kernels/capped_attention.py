"""Attention with a cap on its scores (Gemma 2), row by row in blocks of queries, with torch alone.

The card's fast attention knows no cap. Scores of one block exist at a time, and are made again on
the way back; rounding follows the model's own order.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from runner.forecast.passes import CAPPED_SCORES
from runner.training.kernels.heads import Heads
from runner.training.kernels.rows import Rows

Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Queries, keys and values: lines × heads × size."""


def forward(parts: Parts, heads: Heads, rows: Rows) -> torch.Tensor:
    """Give the output: lines × heads × size."""
    q, k, v = parts
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for asked, seen in _blocks(heads, rows):
        out[asked] = _attend((q[asked], k[seen], v[seen]), heads, asked.start - seen.start)
    return out


def backward(grad: torch.Tensor, parts: Parts, heads: Heads, rows: Rows) -> Parts:
    """Give the gradients of queries, keys and values."""
    q, k, v = parts
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    # A key is seen from many blocks: its gradient is added up in fp32.
    dk, dv = (torch.zeros(k.shape, dtype=torch.float32, device=k.device) for _ in range(2))
    for asked, seen in _blocks(heads, rows):
        leaves = [one.detach().requires_grad_() for one in (q[asked], k[seen], v[seen])]
        with torch.enable_grad():
            out = _attend((leaves[0], leaves[1], leaves[2]), heads, asked.start - seen.start)
            dq[asked], of_k, of_v = torch.autograd.grad(out, leaves, grad[asked])
        dk[seen] += of_k
        dv[seen] += of_v
    return dq, dk.to(k.dtype), dv.to(v.dtype)


def _blocks(heads: Heads, rows: Rows) -> Iterator[tuple[slice, slice]]:
    """Give the lines that ask and those that they see, block by block."""
    for start, end in zip(rows.ends[:-1], rows.ends[1:], strict=True):
        seen = end - start if heads.window is None else min(end - start, heads.window)
        block = max(1, CAPPED_SCORES // (heads.q_heads * seen))
        for first in range(start, end, block):
            last = min(first + block, end)
            begin = start if heads.window is None else max(start, first - heads.window + 1)
            yield slice(first, last), slice(begin, last)


def _attend(parts: Parts, heads: Heads, before: int) -> torch.Tensor:
    """Attend from a block; ``before`` keys come before the first one's own."""
    q, k, v = parts
    asked, seen, repeats = q.shape[0], k.shape[0], heads.q_heads // heads.kv_heads
    query = q.view(asked, heads.kv_heads, repeats, heads.size).permute(1, 2, 0, 3)
    scores = query.reshape(heads.kv_heads, -1, heads.size) @ k.permute(1, 2, 0)
    scores = torch.tanh(scores * heads.scale / heads.cap) * heads.cap
    own = before + torch.arange(asked, device=q.device)[:, None]
    behind = own - torch.arange(seen, device=q.device)[None, :]
    hidden = behind < 0
    if heads.window is not None:
        hidden |= behind >= heads.window
    scores = scores.view(heads.kv_heads, repeats, asked, seen).masked_fill(hidden, -torch.inf)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    out = weights.view(heads.kv_heads, -1, seen) @ v.transpose(0, 1)
    by_line = out.view(heads.kv_heads, repeats, asked, heads.size).permute(2, 0, 1, 3)
    return by_line.reshape(asked, heads.q_heads, heads.size)
