"""The last norm, the head and the loss, a chunk of logits at a time; the gradient is made at once.

Logits of a whole pass would be the largest tensor of training (a vocabulary of 128,256 is 250 KB a
token). Tokens that are not learned never meet the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from runner.training.kernels import rmsnorm
from runner.training.kernels.gpu import jit, next_power_of_2, runs_kernels, tl
from runner.training.kernels.rmsnorm import Norm
from runner.training.kernels.rows import Rows

_BLOCK = 8192  # logits that one program holds at once


@dataclass(frozen=True, kw_only=True)
class Head:
    """The head, and what the model does to its logits."""

    weight: torch.Tensor
    factor: float = 1.0
    """Logits are multiplied by it (Granite)."""
    cap: float = 0.0
    """They then go through ``cap`` × tanh(logit / ``cap``) (Gemma 2); 0: they do not."""


class HeadLoss(torch.autograd.Function):
    """Sum of the learned tokens' losses, times ``scale``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        norm: Norm,
        head: Head,
        rows: Rows,
        scale: torch.Tensor,
        chunk: int,
    ) -> torch.Tensor:
        """Measure, and make the gradient of ``x``; ``scale`` is an fp32 number on the device."""
        learned = rows.learned
        losses = torch.empty(learned.numel(), dtype=torch.float32, device=x.device)
        grad = torch.zeros_like(x)
        for start in range(0, learned.numel(), chunk):
            part = learned[start : start + chunk]
            logits = rmsnorm.forward(x[part], norm) @ head.weight.t()
            here = slice(start, start + chunk)
            cross_entropy(logits, rows.targets[here], losses[here], scale, head)
            grad[part] = logits @ head.weight
            del logits
        ctx.grad = rmsnorm.backward(x, norm, grad, out=grad)[0]
        return losses.sum() * scale

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """Hand on what was made on the way."""
        found, ctx.grad = ctx.grad.mul_(grad), None
        return found, None, None, None, None, None


def row_losses(x: torch.Tensor, norm: Norm, head: Head, rows: Rows, chunk: int) -> torch.Tensor:
    """Sum the losses of each row's learned tokens, as fp64; nothing goes backward."""
    learned = rows.learned
    losses = torch.empty(learned.numel(), dtype=torch.float32, device=x.device)
    one = torch.ones((), device=x.device)
    for start in range(0, learned.numel(), chunk):
        here = slice(start, start + chunk)
        logits = rmsnorm.forward(x[learned[here]], norm) @ head.weight.t()
        cross_entropy(logits, rows.targets[here], losses[here], one, head)
    row_of = torch.bucketize(learned, rows.starts[1:-1].long(), right=True)
    sums = torch.zeros(len(rows.ends) - 1, dtype=torch.float64, device=x.device)
    return sums.index_add_(0, row_of, losses.double())


def cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    losses: torch.Tensor,
    scale: torch.Tensor,
    head: Head,
) -> None:
    """Write each line's loss; its logits become their gradient times ``scale``."""
    if not runs_kernels(logits):
        wide = logits.float() * head.factor
        slope = torch.full_like(wide, head.factor)
        if head.cap:
            bent = torch.tanh(wide / head.cap)
            wide, slope = head.cap * bent, slope * (1 - bent * bent)
        chances = torch.log_softmax(wide, dim=-1)
        losses.copy_(-chances.gather(1, targets[:, None])[:, 0])
        grad = chances.exp()
        grad[torch.arange(len(targets), device=logits.device), targets] -= 1
        logits.copy_(grad * slope * scale)
        return
    width = logits.shape[1]
    _cross_entropy[(logits.shape[0],)](
        logits,
        targets,
        losses,
        scale,
        logits.stride(0),
        head.factor,
        head.cap,
        CAPPED=bool(head.cap),
        WIDTH=width,
        BLOCK=min(_BLOCK, next_power_of_2(width)),
        num_warps=8,
    )


@jit
def _bent(v, cap):
    """Give tanh(v / cap), as 2 sigmoid(2 z) - 1."""
    return 2 * tl.sigmoid(2 * (v / cap)) - 1


@jit
def _cross_entropy(
    logits,
    targets,
    losses,
    scale,
    stride,
    factor,
    cap,
    CAPPED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    line = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + line)
    step = tl.load(scale)
    highest = -float("inf")
    total = 0.0
    for start in range(0, WIDTH, BLOCK):
        column = start + tl.arange(0, BLOCK)
        at = logits + line * stride + column
        v = tl.load(at, mask=column < WIDTH, other=0.0).to(tl.float32) * factor
        if CAPPED:
            v = cap * _bent(v, cap)
        v = tl.where(column < WIDTH, v, -float("inf"))
        now = tl.maximum(highest, tl.max(v))
        total = total * tl.exp(highest - now) + tl.sum(tl.exp(v - now))
        highest = now
    of_target = tl.load(logits + line * stride + target).to(tl.float32) * factor
    if CAPPED:
        of_target = cap * _bent(of_target, cap)
    tl.store(losses + line, highest + tl.log(total) - of_target)
    for start in range(0, WIDTH, BLOCK):
        column = start + tl.arange(0, BLOCK)
        at = logits + line * stride + column
        v = tl.load(at, mask=column < WIDTH, other=0.0).to(tl.float32) * factor
        slope = factor * step
        if CAPPED:
            bent = _bent(v, cap)
            v = cap * bent
            d = (tl.exp(v - highest) / total - (column == target).to(tl.float32)) * (
                slope * (1 - bent * bent)
            )
        else:
            d = (tl.exp(v - highest) / total - (column == target).to(tl.float32)) * slope
        tl.store(at, d.to(logits.dtype.element_ty), mask=column < WIDTH)
