"""Attention over many short rows side by side: the query heads that share keys go together.

A program takes a block of tokens with all heads that read one key head, so keys and values are
read once for all of them, a block is narrow (16 tokens of four heads each) and little of what it
computes is masked. The gradients of keys and values are summed over those heads in the same place.
The method is FlashAttention's (arXiv:2307.08691): scores exist a tile at a time, and the way back
makes them again from each line's sum. No two programs write one place, so a run repeats bit by bit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from runner.training.kernels.gpu import jit, tl, triton
from runner.training.kernels.heads import Heads
from runner.training.kernels.rows import Rows

_LOG2_E = 1.4426950408889634
SIZES = (64, 128)
"""Head sizes whose tiles fit."""
MOST_SHARED = 16
"""Query heads to a key head: with more, a tile would hold too few tokens."""


class Tile(NamedTuple):
    """What one program holds at once."""

    lines: int
    """Queries: tokens times the heads that share keys."""
    keys: int
    warps: int
    stages: int
    """Tiles on their way at once."""

    @property
    def options(self) -> dict[str, int]:
        """Give it as a kernel wants it."""
        return {
            "LINES": self.lines,
            "KEYS": self.keys,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


# The quickest of 24 to 36 each for 16 rows of together 9,051 tokens (8B's heads, H200).
FORWARD = Tile(64, 32, 4, 3)
QUERIES_BACK = Tile(64, 64, 4, 2)
KEYS_BACK = Tile(64, 64, 4, 2)


def forward(qkv: torch.Tensor, heads: Heads, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the output (lines × heads × size) and each line's sum (heads × lines, base 2)."""
    q, k, v = heads.split(qkv)
    lines = qkv.shape[0]
    out = torch.empty(lines, heads.q_heads, heads.size, dtype=qkv.dtype, device=qkv.device)
    sums = torch.empty(heads.q_heads, lines, dtype=torch.float32, device=qkv.device)
    shared = heads.q_heads // heads.kv_heads
    tokens = FORWARD.lines // shared
    _forward[(triton.cdiv(lines, tokens), heads.kv_heads)](
        q,
        k,
        v,
        out,
        sums,
        rows.position,
        lines,
        qkv.stride(0),
        heads.scale * _LOG2_E,
        SHARED=shared,
        SIZE=heads.size,
        TOKENS=tokens,
        **FORWARD.options,
    )
    return out, sums


def backward(
    grad: torch.Tensor,
    qkv: torch.Tensor,
    out: torch.Tensor,
    sums: torch.Tensor,
    heads: Heads,
    rows: Rows,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give the gradients of queries, keys and values (lines × heads × size)."""
    q, k, v = heads.split(qkv)
    lines = qkv.shape[0]
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    dk, dv = (torch.empty(k.shape, dtype=k.dtype, device=k.device) for _ in range(2))
    inner = torch.empty_like(sums)
    shared = heads.q_heads // heads.kv_heads
    grad = grad.contiguous()
    tokens = QUERIES_BACK.lines // shared
    sizes = {"SHARED": shared, "SIZE": heads.size}
    _queries_back[(triton.cdiv(lines, tokens), heads.kv_heads)](
        q,
        k,
        v,
        out,
        grad,
        sums,
        inner,
        dq,
        rows.position,
        lines,
        qkv.stride(0),
        heads.scale,
        TOKENS=tokens,
        **QUERIES_BACK.options,
        **sizes,
    )
    _keys_back[(triton.cdiv(lines, KEYS_BACK.keys), heads.kv_heads)](
        q,
        k,
        v,
        grad,
        sums,
        inner,
        dk,
        dv,
        rows.position,
        rows.last,
        lines,
        qkv.stride(0),
        heads.scale,
        TOKENS=KEYS_BACK.lines // shared,
        **KEYS_BACK.options,
        **sizes,
    )
    return dq, dk, dv


@jit
def _forward_tile(
    q, sums, most, total, k, v, key, token, first, lines, stride, scale, MASKED: tl.constexpr
):
    """Take a tile of keys: new sums, new maxima, new total."""
    there = key < lines
    kt = tl.load(k + key[None, :] * stride, mask=there[None, :], other=0.0)
    s = tl.dot(q, kt) * scale
    if MASKED:
        seen = (key[None, :] >= first[:, None]) & (key[None, :] <= token[:, None])
        s = tl.where(seen, s, -float("inf"))
    new = tl.maximum(most, tl.max(s, 1))
    p = tl.exp2(s - new[:, None])
    less = tl.exp2(most - new)
    vt = tl.load(v + key[:, None] * stride, mask=there[:, None], other=0.0)
    total = total * less[:, None]
    total = tl.dot(p.to(vt.dtype), vt, total)
    return sums * less + tl.sum(p, 1), new, total


@jit
def _forward(
    q,
    k,
    v,
    out,
    sums,
    position,
    lines,
    stride,
    scale,
    SHARED: tl.constexpr,
    SIZE: tl.constexpr,
    TOKENS: tl.constexpr,
    LINES: tl.constexpr,
    KEYS: tl.constexpr,
):
    begin = tl.program_id(0) * TOKENS
    group = tl.program_id(1)
    m = tl.arange(0, LINES)
    d = tl.arange(0, SIZE)
    token = begin + m // SHARED
    head = group * SHARED + m % SHARED
    there = (m < TOKENS * SHARED) & (token < lines)
    first = token - tl.load(position + token, mask=there, other=0)
    first = tl.where(there, first, lines)
    lowest = tl.min(first)
    highest = tl.max(tl.where(there, first, 0))
    at = token.to(tl.int64)[:, None] * stride + head[:, None] * SIZE + d[None, :]
    tile = tl.load(q + at, mask=there[:, None], other=0.0)
    most = tl.full((LINES,), -1e30, tl.float32)  # finite: a tile may hold nothing that a line sees
    found = tl.zeros((LINES,), tl.float32)
    total = tl.zeros((LINES, SIZE), tl.float32)
    k += group * SIZE + d[:, None]
    v += group * SIZE + d[None, :]
    n = tl.arange(0, KEYS)
    end = tl.minimum(begin + TOKENS, lines)
    low = lowest // KEYS * KEYS
    whole = tl.minimum((highest + KEYS - 1) // KEYS * KEYS, end)  # from here on all see all of it
    own = tl.maximum(begin // KEYS * KEYS, whole)  # from here on a line sees keys up to its own
    for at_key in range(low, whole, KEYS):
        key = (at_key + n).to(tl.int64)
        found, most, total = _forward_tile(
            tile, found, most, total, k, v, key, token, first, lines, stride, scale, True
        )
    for at_key in range(whole, begin // KEYS * KEYS, KEYS):
        key = (at_key + n).to(tl.int64)
        found, most, total = _forward_tile(
            tile, found, most, total, k, v, key, token, first, lines, stride, scale, False
        )
    for at_key in range(own, end, KEYS):
        key = (at_key + n).to(tl.int64)
        found, most, total = _forward_tile(
            tile, found, most, total, k, v, key, token, first, lines, stride, scale, True
        )
    found = tl.where(there, found, 1.0)
    to = token.to(tl.int64)[:, None] * (tl.num_programs(1) * SHARED * SIZE)
    to += head[:, None] * SIZE + d[None, :]
    tl.store(out + to, (total / found[:, None]).to(out.dtype.element_ty), mask=there[:, None])
    tl.store(sums + head.to(tl.int64) * lines + token, most + tl.log2(found), mask=there)


@jit
def _queries_tile(
    total, q, grad, sums, inner, k, v, key, token, first, lines, stride, scale, MASKED: tl.constexpr
):
    there = (key < lines)[:, None]
    kt = tl.load(k + key[:, None] * stride, mask=there, other=0.0)
    vt = tl.load(v + key[:, None] * stride, mask=there, other=0.0)
    p = tl.exp2(tl.dot(q, tl.trans(kt)) * (scale * 1.4426950408889634) - sums[:, None])
    if MASKED:
        seen = (key[None, :] >= first[:, None]) & (key[None, :] <= token[:, None])
        p = tl.where(seen, p, 0.0)
    ds = p * (tl.dot(grad, tl.trans(vt)) - inner[:, None])
    return tl.dot(ds.to(kt.dtype), kt, total)


@jit
def _queries_back(
    q,
    k,
    v,
    out,
    grad,
    sums,
    inner,
    dq,
    position,
    lines,
    stride,
    scale,
    SHARED: tl.constexpr,
    SIZE: tl.constexpr,
    TOKENS: tl.constexpr,
    LINES: tl.constexpr,
    KEYS: tl.constexpr,
):
    begin = tl.program_id(0) * TOKENS
    group = tl.program_id(1)
    m = tl.arange(0, LINES)
    d = tl.arange(0, SIZE)
    token = begin + m // SHARED
    head = group * SHARED + m % SHARED
    there = (m < TOKENS * SHARED) & (token < lines)
    first = token - tl.load(position + token, mask=there, other=0)
    first = tl.where(there, first, lines)
    lowest = tl.min(first)
    highest = tl.max(tl.where(there, first, 0))
    at = token.to(tl.int64)[:, None] * stride + head[:, None] * SIZE + d[None, :]
    tile = tl.load(q + at, mask=there[:, None], other=0.0)
    to = token.to(tl.int64)[:, None] * (tl.num_programs(1) * SHARED * SIZE)
    to += head[:, None] * SIZE + d[None, :]
    of_out = tl.load(grad + to, mask=there[:, None], other=0.0)
    was = tl.load(out + to, mask=there[:, None], other=0.0)
    both = tl.sum(of_out.to(tl.float32) * was.to(tl.float32), 1)
    line = head.to(tl.int64) * lines + token
    tl.store(inner + line, both, mask=there)
    sum_ = tl.load(sums + line, mask=there, other=0.0)
    total = tl.zeros((LINES, SIZE), tl.float32)
    k += group * SIZE + d[None, :]
    v += group * SIZE + d[None, :]
    n = tl.arange(0, KEYS)
    end = tl.minimum(begin + TOKENS, lines)
    low = lowest // KEYS * KEYS
    whole = tl.minimum((highest + KEYS - 1) // KEYS * KEYS, end)
    own = tl.maximum(begin // KEYS * KEYS, whole)
    for at_key in range(low, whole, KEYS):
        key = (at_key + n).to(tl.int64)
        total = _queries_tile(
            total, tile, of_out, sum_, both, k, v, key, token, first, lines, stride, scale, True
        )
    for at_key in range(whole, begin // KEYS * KEYS, KEYS):
        key = (at_key + n).to(tl.int64)
        total = _queries_tile(
            total, tile, of_out, sum_, both, k, v, key, token, first, lines, stride, scale, False
        )
    for at_key in range(own, end, KEYS):
        key = (at_key + n).to(tl.int64)
        total = _queries_tile(
            total, tile, of_out, sum_, both, k, v, key, token, first, lines, stride, scale, True
        )
    tl.store(dq + to, (total * scale).to(dq.dtype.element_ty), mask=there[:, None])


@jit
def _keys_tile(
    of_k,
    of_v,
    kt,
    vt,
    q,
    grad,
    sums,
    inner,
    position,
    key,
    at_token,
    end,
    group,
    lines,
    stride,
    scale,
    SHARED: tl.constexpr,
    SIZE: tl.constexpr,
    TOKENS: tl.constexpr,
    LINES: tl.constexpr,
    MASKED: tl.constexpr,
):
    m = tl.arange(0, LINES)
    d = tl.arange(0, SIZE)
    head = group * SHARED + m % SHARED
    token = at_token + m // SHARED
    asks = (m < TOKENS * SHARED) & (token < end)
    token64 = token.to(tl.int64)
    at = token64[:, None] * stride + head[:, None] * SIZE + d[None, :]
    tile = tl.load(q + at, mask=asks[:, None], other=0.0)
    to = token64[:, None] * (tl.num_programs(1) * SHARED * SIZE)
    to += head[:, None] * SIZE + d[None, :]
    of_out = tl.load(grad + to, mask=asks[:, None], other=0.0)
    line = head.to(tl.int64) * lines + token
    sum_ = tl.load(sums + line, mask=asks, other=0.0)
    both = tl.load(inner + line, mask=asks, other=0.0)
    p = tl.exp2(tl.dot(kt, tl.trans(tile)) * (scale * 1.4426950408889634) - sum_[None, :])
    if MASKED:
        first = token - tl.load(position + token, mask=asks, other=0)
        seen = (key[:, None] >= first[None, :]) & (key[:, None] <= token[None, :])
        p = tl.where(seen, p, 0.0)
    of_v = tl.dot(p.to(of_out.dtype), of_out, of_v)
    ds = p * (tl.dot(vt, tl.trans(of_out)) - both[None, :])
    return tl.dot(ds.to(tile.dtype), tile, of_k), of_v


@jit
def _keys_back(
    q,
    k,
    v,
    grad,
    sums,
    inner,
    dk,
    dv,
    position,
    last,
    lines,
    stride,
    scale,
    SHARED: tl.constexpr,
    SIZE: tl.constexpr,
    TOKENS: tl.constexpr,
    LINES: tl.constexpr,
    KEYS: tl.constexpr,
):
    begin = tl.program_id(0) * KEYS
    group = tl.program_id(1)
    n = tl.arange(0, KEYS)
    d = tl.arange(0, SIZE)
    key = begin + n
    there = key < lines
    at = key.to(tl.int64)[:, None] * stride + group * SIZE + d[None, :]
    kt = tl.load(k + at, mask=there[:, None], other=0.0)
    vt = tl.load(v + at, mask=there[:, None], other=0.0)
    end = tl.max(tl.load(last + key, mask=there, other=0))
    of_k = tl.zeros((KEYS, SIZE), tl.float32)
    of_v = tl.zeros((KEYS, SIZE), tl.float32)
    first_end = tl.min(tl.load(last + key, mask=there, other=lines))
    # Tokens behind the tile see all its keys, if those are of one row; what is not there adds 0.
    own = tl.minimum(begin + (KEYS + TOKENS - 1) // TOKENS * TOKENS, end)
    own = tl.where(first_end < end, end, own)
    for at_token in range(begin, own, TOKENS):
        of_k, of_v = _keys_tile(
            of_k, of_v, kt, vt, q, grad, sums, inner, position, key, at_token, end, group,
            lines, stride, scale, SHARED, SIZE, TOKENS, LINES, True
        )  # fmt: skip
    for at_token in range(own, end, TOKENS):
        of_k, of_v = _keys_tile(
            of_k, of_v, kt, vt, q, grad, sums, inner, position, key, at_token, end, group,
            lines, stride, scale, SHARED, SIZE, TOKENS, LINES, False
        )  # fmt: skip
    to = key.to(tl.int64)[:, None] * (tl.num_programs(1) * SIZE) + group * SIZE + d[None, :]
    tl.store(dk + to, (of_k * scale).to(dk.dtype.element_ty), mask=there[:, None])
    tl.store(dv + to, of_v.to(dv.dtype.element_ty), mask=there[:, None])
