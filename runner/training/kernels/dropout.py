"""Dropout of LoRA's input: each number's fate follows from its place, so no mask is kept.

A hash of a key and the place says whether a number is dropped. The way back, and a layer that is
made again, ask the hash again and get the same answer; every projection of every pass has a key.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from runner.training.kernels.gpu import jit, runs_kernels, tl, triton

_BLOCK = 1024  # numbers of one program: elementwise, so only large enough to fill its loads
_WORD = 0xFFFFFFFF  # all of it is arithmetic of 32 bits without a sign
_FIRST, _SECOND, _THIRD = 0x85EBCA6B, 0xC2B2AE35, 0x9E3779B1
"""MurmurHash3's finalizer (every bit of the input turns half of the output's), and the golden ratio
times 2 to the 32nd, which sets neighbours far apart."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What a pass drops."""

    seed: int
    line: int = 0
    """Of the pass, where what is asked about begins: long rows go tile by tile."""

    def at(self, here: slice) -> Draws:
        """Give the same for a tile."""
        return replace(self, line=self.line + here.start)

    def key(self, group: int, projection: int) -> int:
        """Give a projection's key."""
        # Never 1: of that number Triton makes a constant, and another kernel.
        return _mixed(_mixed(self.seed & _WORD) + (64 * group + projection + 1) * _THIRD) | 2


def at(draws: Draws | None, here: slice) -> Draws | None:
    """Give a tile's draws."""
    return None if draws is None else draws.at(here)


def dropped(x: torch.Tensor, chance: float, key: int, line: int) -> torch.Tensor:
    """Give ``x`` (lines × width) with numbers dropped, the others made up for it."""
    if not runs_kernels(x):
        return x * _factors(x, chance, key, line)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, y, chance, key, line, add=False)
    return y


def add_dropped(into: torch.Tensor, x: torch.Tensor, chance: float, key: int, line: int) -> None:
    """Add to ``into`` what `dropped` gives: the gradient goes where the number came from."""
    if not runs_kernels(x):
        into += x * _factors(x, chance, key, line)
        return
    _launch(x, into, chance, key, line, add=True)


def _launch(
    x: torch.Tensor, y: torch.Tensor, chance: float, key: int, line: int, *, add: bool
) -> None:
    width = x.shape[1]
    assert x.stride(1) == y.stride(1) == 1, (x.stride(), y.stride())
    _drop[(x.shape[0], triton.cdiv(width, _BLOCK))](
        x,
        y,
        x.stride(0),  # what B lies beside has lines that are wider than the input
        y.stride(0),
        width,
        line,
        _signed(key),
        _signed(_limit(chance)),
        1 / (1 - chance),
        ADD=add,
        BLOCK=_BLOCK,
        num_warps=4,
    )


def _factors(x: torch.Tensor, chance: float, key: int, line: int) -> torch.Tensor:
    """Give what each number is multiplied by: the kernel's own arithmetic, with torch alone."""
    lines = torch.arange(line, line + x.shape[0], device=x.device)[:, None]
    column = torch.arange(x.shape[1], device=x.device)[None, :]
    h = (lines * x.shape[1] + column) & _WORD
    h = ((h * _THIRD) & _WORD) ^ key
    h = ((h ^ (h >> 16)) * _FIRST) & _WORD
    h = ((h ^ (h >> 13)) * _SECOND) & _WORD
    h = h ^ (h >> 16)
    return (h >= _limit(chance)).to(x.dtype) / (1 - chance)


def _limit(chance: float) -> int:
    return min(_WORD, round(chance * 2**32))


def _mixed(number: int) -> int:
    h = number & _WORD
    h = ((h ^ (h >> 16)) * _FIRST) & _WORD
    h = ((h ^ (h >> 13)) * _SECOND) & _WORD
    return h ^ (h >> 16)


def _signed(word: int) -> int:
    """Give the same 32 bits as Triton takes a number of them: with a sign."""
    return word - 2**32 if word >= 2**31 else word


@jit
def _drop(
    x,
    y,
    x_stride,
    y_stride,
    width,
    line,
    key,
    limit,
    factor,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    here = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < width
    h = ((here + line) * width + column).to(tl.uint32)
    h = (h * 0x9E3779B1).to(tl.uint32) ^ key.to(tl.uint32)
    h = ((h ^ (h >> 16)) * 0x85EBCA6B).to(tl.uint32)
    h = ((h ^ (h >> 13)) * 0xC2B2AE35).to(tl.uint32)
    h = h ^ (h >> 16)
    v = tl.load(x + here * x_stride + column, mask=there, other=0.0).to(tl.float32)
    v = tl.where(h >= limit.to(tl.uint32), v * factor, 0.0)
    to = y + here * y_stride + column
    if ADD:
        v += tl.load(to, mask=there, other=0.0).to(tl.float32)
    tl.store(to, v.to(y.dtype.element_ty), mask=there)
