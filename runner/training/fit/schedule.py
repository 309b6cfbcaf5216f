"""The learning rate of each optimizer step: a warm-up, then constant, linear or cosine.

The library's own warm-up gives the first step a rate of exactly 0, so that every run loses its
first step, and a run of one step learns nothing at all. Here the first step has a rate above 0, the
first step after the warm-up has the peak, and the last step of all still learns.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any


def warmup_steps(total_steps: int, ratio: float) -> int:
    """Count the steps before the peak: at least one step of a run has the whole rate."""
    return min(math.ceil(ratio * total_steps), total_steps - 1)


def share_of_peak(done: int, *, total_steps: int, warmup: int, shape: str) -> float:
    """Give the rate of the next step, as a share of the peak.

    Args:
        done: optimizer steps finished so far.
        total_steps: those of the whole run, whatever attempts it takes.
        warmup: the steps before the peak.
        shape: ``constant``, ``linear`` or ``cosine``: how it falls, towards 0 one step after the
            last.
    """
    if done < warmup:
        return (done + 1) / (warmup + 1)
    if shape == "constant":
        return 1.0
    fallen = min(1.0, (done - warmup) / max(1, total_steps - warmup))
    return 1.0 - fallen if shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * fallen))


def scheduler(optimizer: Any, *, total_steps: int, warmup: int, shape: str) -> Any:
    """Make torch's scheduler of it."""
    from torch.optim.lr_scheduler import LambdaLR

    rate = partial(share_of_peak, total_steps=total_steps, warmup=warmup, shape=shape)
    return LambdaLR(optimizer, rate)
