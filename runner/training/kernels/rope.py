"""Rotary positions (RoPE): queries and keys turned in place, and their gradients turned back."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from runner.training.kernels.gpu import jit, next_power_of_2, runs_kernels, tl


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Cosines and sines by position, one of each for a pair of numbers that turn together."""

    cos: torch.Tensor
    sin: torch.Tensor
    neighbours: bool = False
    """A pair lies side by side (GLM), not in the two halves of what turns (Llama)."""

    @property
    def pairs(self) -> int:
        """Pairs of a head: with fewer than half its numbers, its end is left alone (Phi, GLM)."""
        return int(self.cos.shape[1])

    @property
    def places(self) -> dict[str, int]:
        """Say where pairs lie, as the kernels want it: pair by pair, and from first to second."""
        step, gap = (2, 1) if self.neighbours else (1, self.pairs)
        return {"PAIRS": self.pairs, "BLOCK": next_power_of_2(self.pairs), "STEP": step, "GAP": gap}


def turn(
    qkv: torch.Tensor, heads: int, size: int, position: torch.Tensor, turns: Turns | None
) -> None:
    """Turn the first ``heads`` heads of each line in place: queries and keys, not values."""
    _turn_by(qkv, heads, size, position, turns, sign=1)


def turn_back(
    qkv: torch.Tensor, heads: int, size: int, position: torch.Tensor, turns: Turns | None
) -> None:
    """Turn the gradients of turned queries and keys back, in place."""
    _turn_by(qkv, heads, size, position, turns, sign=-1)


def _turn_by(
    qkv: torch.Tensor,
    heads: int,
    size: int,
    position: torch.Tensor,
    turns: Turns | None,
    *,
    sign: int,
) -> None:
    if turns is None:  # a layer without positions
        return
    if not runs_kernels(qkv):
        _turn_reference(qkv, heads, size, position, turns, sign=float(sign))
        return
    _turn[(qkv.shape[0],)](
        qkv,
        position,
        turns.cos,
        turns.sin,
        qkv.stride(0),
        heads,
        SIZE=size,
        SIGN=sign,
        HEADS=next_power_of_2(heads),
        **turns.places,
        num_warps=4,
    )


def join_and_turn_back(
    grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    position: torch.Tensor,
    turns: Turns | None,
) -> torch.Tensor:
    """Lay the gradients of queries, keys and values side by side, the first two turned back."""
    lines, q_heads, size = grads[0].shape
    kv_heads = grads[1].shape[1]
    width = (q_heads + 2 * kv_heads) * size
    out = torch.empty(lines, width, dtype=grads[0].dtype, device=grads[0].device)
    if turns is None or not runs_kernels(out):
        torch.cat([grad.reshape(lines, -1) for grad in grads], dim=1, out=out)
        turn_back(out, q_heads + kv_heads, size, position, turns)
        return out
    dq, dk, dv = (
        grad if grad.stride(2) == 1 and grad.stride(1) == size else grad.contiguous()
        for grad in grads
    )
    rest = size - 2 * turns.pairs
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
        SIZE=size,
        REST=rest,
        REST_BLOCK=next_power_of_2(max(1, rest)),
        HEADS=next_power_of_2(q_heads + 2 * kv_heads),
        **turns.places,
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
    turned = qkv[:, : heads * size].view(-1, heads, size)[..., : 2 * turns.pairs]
    if turns.neighbours:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned[..., : turns.pairs], turned[..., turns.pairs :]
    a, b = first.float(), second.float()
    cos = turns.cos[position.long()][:, None]
    sin = sign * turns.sin[position.long()][:, None]
    found = a * cos - b * sin, b * cos + a * sin
    first.copy_(found[0])
    second.copy_(found[1])


@jit
def _turn(
    qkv,
    position,
    cos,
    sin,
    stride,
    heads,
    SIZE: tl.constexpr,
    SIGN: tl.constexpr,
    HEADS: tl.constexpr,
    PAIRS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    GAP: tl.constexpr,
):
    line = tl.program_id(0).to(tl.int64)
    p = tl.load(position + line).to(tl.int64)
    head = tl.arange(0, HEADS)
    d = tl.arange(0, BLOCK)
    there = (head < heads)[:, None] & (d < PAIRS)[None, :]
    c = tl.load(cos + p * PAIRS + d, mask=d < PAIRS, other=1.0)[None, :]
    s = SIGN * tl.load(sin + p * PAIRS + d, mask=d < PAIRS, other=0.0)[None, :]
    at = qkv + line * stride + head[:, None] * SIZE + d[None, :] * STEP
    a = tl.load(at, mask=there, other=0.0).to(tl.float32)
    b = tl.load(at + GAP, mask=there, other=0.0).to(tl.float32)
    tl.store(at, (a * c - b * s).to(qkv.dtype.element_ty), mask=there)
    tl.store(at + GAP, (b * c + a * s).to(qkv.dtype.element_ty), mask=there)


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
    SIZE: tl.constexpr,
    REST: tl.constexpr,
    REST_BLOCK: tl.constexpr,
    HEADS: tl.constexpr,
    PAIRS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    GAP: tl.constexpr,
):
    line = tl.program_id(0).to(tl.int64)
    p = tl.load(position + line).to(tl.int64)
    head = tl.arange(0, HEADS)
    d = tl.arange(0, BLOCK)
    c = tl.load(cos + p * PAIRS + d, mask=d < PAIRS, other=1.0)[None, :]
    s = tl.load(sin + p * PAIRS + d, mask=d < PAIRS, other=0.0)[None, :]
    of_q = head < q_heads
    of_k = (head >= q_heads) & (head < q_heads + kv_heads)
    of_v = (head >= q_heads + kv_heads) & (head < q_heads + 2 * kv_heads)
    q_line = dq + line * q_stride
    k_line = dk + line * k_stride - q_heads * SIZE
    v_line = dv + line * v_stride - (q_heads + kv_heads) * SIZE
    is_d = (d < PAIRS)[None, :]
    is_q, is_k, is_v = of_q[:, None] & is_d, of_k[:, None] & is_d, of_v[:, None] & is_d
    at = head[:, None] * SIZE + d[None, :] * STEP
    a = tl.load(q_line + at, mask=is_q, other=0.0) + tl.load(k_line + at, mask=is_k, other=0.0)
    b = tl.load(q_line + at + GAP, mask=is_q, other=0.0)
    b += tl.load(k_line + at + GAP, mask=is_k, other=0.0)
    va = tl.load(v_line + at, mask=is_v, other=0.0).to(tl.float32)
    vb = tl.load(v_line + at + GAP, mask=is_v, other=0.0).to(tl.float32)
    a = a.to(tl.float32)
    b = b.to(tl.float32)
    to = out + line * stride + at
    there = is_q | is_k | is_v
    tl.store(to, (a * c + b * s + va).to(out.dtype.element_ty), mask=there)
    tl.store(to + GAP, (b * c - a * s + vb).to(out.dtype.element_ty), mask=there)
    if REST > 0:
        r = tl.arange(0, REST_BLOCK)
        is_r = (r < REST)[None, :]
        is_q, is_k, is_v = of_q[:, None] & is_r, of_k[:, None] & is_r, of_v[:, None] & is_r
        at = head[:, None] * SIZE + 2 * PAIRS + r[None, :]
        e = tl.load(q_line + at, mask=is_q, other=0.0) + tl.load(k_line + at, mask=is_k, other=0.0)
        e += tl.load(v_line + at, mask=is_v, other=0.0)
        tl.store(out + line * stride + at, e, mask=is_q | is_k | is_v)
