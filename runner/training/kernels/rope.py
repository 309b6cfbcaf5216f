"""Rotary positions (RoPE): queries and keys turned in place, and their gradients turned back."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from runner.training.kernels.gpu import jit, next_power_of_2, runs_kernels, tl


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Cosines and sines by position, of half a head each: its two halves turn together."""

    cos: torch.Tensor
    sin: torch.Tensor


def turn(qkv: torch.Tensor, heads: int, size: int, position: torch.Tensor, turns: Turns) -> None:
    """Turn the first ``heads`` heads of each line in place: queries and keys, not values."""
    if not runs_kernels(qkv):
        _turn_reference(qkv, heads, size, position, turns, sign=1.0)
        return
    _turn[(qkv.shape[0],)](
        qkv,
        position,
        turns.cos,
        turns.sin,
        qkv.stride(0),
        heads,
        HALF=size // 2,
        SIGN=1,
        HEADS=next_power_of_2(heads),
        num_warps=4,
    )


def turn_back(
    qkv: torch.Tensor, heads: int, size: int, position: torch.Tensor, turns: Turns
) -> None:
    """Turn the gradients of turned queries and keys back, in place."""
    if not runs_kernels(qkv):
        _turn_reference(qkv, heads, size, position, turns, sign=-1.0)
        return
    _turn[(qkv.shape[0],)](
        qkv,
        position,
        turns.cos,
        turns.sin,
        qkv.stride(0),
        heads,
        HALF=size // 2,
        SIGN=-1,
        HEADS=next_power_of_2(heads),
        num_warps=4,
    )


def join_and_turn_back(
    grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    position: torch.Tensor,
    turns: Turns,
) -> torch.Tensor:
    """Lay the gradients of queries, keys and values side by side, the first two turned back."""
    lines, q_heads, size = grads[0].shape
    kv_heads = grads[1].shape[1]
    width = (q_heads + 2 * kv_heads) * size
    out = torch.empty(lines, width, dtype=grads[0].dtype, device=grads[0].device)
    if not runs_kernels(out):
        torch.cat([grad.reshape(lines, -1) for grad in grads], dim=1, out=out)
        turn_back(out, q_heads + kv_heads, size, position, turns)
        return out
    dq, dk, dv = (
        grad if grad.stride(2) == 1 and grad.stride(1) == size else grad.contiguous()
        for grad in grads
    )
    _join[(lines,)](
        dq,
        dk,
        dv,
        out,
        position,
        turns.cos,
        turns.sin,
        width,
        dq.stride(0),
        dk.stride(0),
        dv.stride(0),
        q_heads,
        kv_heads,
        HALF=size // 2,
        HEADS=next_power_of_2(q_heads + 2 * kv_heads),
        num_warps=4,
    )
    return out


def _turn_reference(
    qkv: torch.Tensor,
    heads: int,
    size: int,
    position: torch.Tensor,
    turns: Turns,
    *,
    sign: float,
) -> None:
    x = qkv[:, : heads * size].view(-1, heads, 2, size // 2)
    a, b = x[:, :, 0].float(), x[:, :, 1].float()
    cos = turns.cos[position.long()][:, None]
    sin = sign * turns.sin[position.long()][:, None]
    first, second = a * cos - b * sin, b * cos + a * sin
    x[:, :, 0], x[:, :, 1] = first.to(qkv.dtype), second.to(qkv.dtype)


@jit
def _turn(
    qkv,
    position,
    cos,
    sin,
    stride,
    heads,
    HALF: tl.constexpr,
    SIGN: tl.constexpr,
    HEADS: tl.constexpr,
):
    line = tl.program_id(0).to(tl.int64)
    p = tl.load(position + line).to(tl.int64)
    head = tl.arange(0, HEADS)
    d = tl.arange(0, HALF)
    there = (head < heads)[:, None] & (d >= 0)[None, :]
    c = tl.load(cos + p * HALF + d)[None, :]
    s = SIGN * tl.load(sin + p * HALF + d)[None, :]
    at = qkv + line * stride + head[:, None] * (2 * HALF) + d[None, :]
    a = tl.load(at, mask=there, other=0.0).to(tl.float32)
    b = tl.load(at + HALF, mask=there, other=0.0).to(tl.float32)
    tl.store(at, (a * c - b * s).to(qkv.dtype.element_ty), mask=there)
    tl.store(at + HALF, (b * c + a * s).to(qkv.dtype.element_ty), mask=there)


@jit
def _join(
    dq,
    dk,
    dv,
    out,
    position,
    cos,
    sin,
    stride,
    q_stride,
    k_stride,
    v_stride,
    q_heads,
    kv_heads,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
):
    line = tl.program_id(0).to(tl.int64)
    p = tl.load(position + line).to(tl.int64)
    head = tl.arange(0, HEADS)
    d = tl.arange(0, HALF)
    c = tl.load(cos + p * HALF + d)[None, :]
    s = tl.load(sin + p * HALF + d)[None, :]
    size = 2 * HALF
    is_q = (head < q_heads)[:, None] & (d >= 0)[None, :]
    is_k = ((head >= q_heads) & (head < q_heads + kv_heads))[:, None] & (d >= 0)[None, :]
    is_v = (head >= q_heads + kv_heads) & (head < q_heads + 2 * kv_heads)
    is_v = is_v[:, None] & (d >= 0)[None, :]
    at = head[:, None] * size + d[None, :]
    q_at = dq + line * q_stride + at
    k_at = dk + line * k_stride + at - q_heads * size
    v_at = dv + line * v_stride + at - (q_heads + kv_heads) * size
    a = tl.load(q_at, mask=is_q, other=0.0) + tl.load(k_at, mask=is_k, other=0.0)
    b = tl.load(q_at + HALF, mask=is_q, other=0.0) + tl.load(k_at + HALF, mask=is_k, other=0.0)
    va = tl.load(v_at, mask=is_v, other=0.0).to(tl.float32)
    vb = tl.load(v_at + HALF, mask=is_v, other=0.0).to(tl.float32)
    a = a.to(tl.float32)
    b = b.to(tl.float32)
    to = out + line * stride + at
    there = is_q | is_k | is_v
    tl.store(to, (a * c + b * s + va).to(out.dtype.element_ty), mask=there)
    tl.store(to + HALF, (b * c - a * s + vb).to(out.dtype.element_ty), mask=there)
