"""The last norm, the head and the loss, a chunk of logits at a time; the gradient is made at once.

Logits of a whole pass would be the largest tensor of training (a vocabulary of 128,256 is 250 KB a
token). Tokens that are not learned never meet the head.
"""

from __future__ import annotations

from typing import Any

import torch

from runner.training.kernels import rmsnorm
from runner.training.kernels.gpu import jit, next_power_of_2, runs_kernels, tl
from runner.training.kernels.rmsnorm import Norm
from runner.training.kernels.rows import Rows

_BLOCK = 8192  # logits that one program holds at once


class HeadLoss(torch.autograd.Function):
    """Sum of the learned tokens' losses, times ``scale``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        norm: Norm,
        head: torch.Tensor,
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
            logits = rmsnorm.forward(x[part], norm) @ head.t()
            cross_entropy(
                logits, rows.targets[start : start + chunk], losses[start : start + chunk], scale
            )
            grad[part] = logits @ head
            del logits
        ctx.grad = rmsnorm.backward(x, norm, grad, out=grad)[0]
        return losses.sum() * scale

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """Hand on what was made on the way."""
        found, ctx.grad = ctx.grad.mul_(grad), None
        return found, None, None, None, None, None


def cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, losses: torch.Tensor, scale: torch.Tensor
) -> None:
    """Write each line's loss; its logits become their gradient times ``scale``."""
    if not runs_kernels(logits):
        wide = logits.float()
        chances = torch.log_softmax(wide, dim=-1)
        losses.copy_(-chances.gather(1, targets[:, None])[:, 0])
        grad = chances.exp()
        grad[torch.arange(len(targets), device=logits.device), targets] -= 1
        logits.copy_(grad * scale)
        return
    width = logits.shape[1]
    _cross_entropy[(logits.shape[0],)](
        logits,
        targets,
        losses,
        scale,
        logits.stride(0),
        WIDTH=width,
        BLOCK=min(_BLOCK, next_power_of_2(width)),
        num_warps=8,
    )


@jit
def _cross_entropy(
    logits,
    targets,
    losses,
    scale,
    stride,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    line = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + line)
    factor = tl.load(scale)
    highest = -float("inf")
    total = 0.0
    for start in range(0, WIDTH, BLOCK):
        column = start + tl.arange(0, BLOCK)
        at = logits + line * stride + column
        v = tl.load(at, mask=column < WIDTH, other=-float("inf")).to(tl.float32)
        now = tl.maximum(highest, tl.max(v))
        total = total * tl.exp(highest - now) + tl.sum(tl.exp(v - now))
        highest = now
    of_target = tl.load(logits + line * stride + target).to(tl.float32)
    tl.store(losses + line, highest + tl.log(total) - of_target)
    for start in range(0, WIDTH, BLOCK):
        column = start + tl.arange(0, BLOCK)
        at = logits + line * stride + column
        v = tl.load(at, mask=column < WIDTH, other=-float("inf")).to(tl.float32)
        chance = tl.exp(v - highest) / total - (column == target).to(tl.float32)
        tl.store(at, (chance * factor).to(logits.dtype.element_ty), mask=column < WIDTH)
