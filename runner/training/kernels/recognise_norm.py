"""Which norm a module is: found out by numbers, small ones, so that its epsilon shows."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch

from runner.training.kernels import rmsnorm
from runner.training.kernels.not_recognised import NotRecognised
from runner.training.kernels.rmsnorm import Norm

_CLOSE = 2e-2  # relative: bf16 rounds at 4e-3 and twice; another formula is off by far more
_USUAL_EPS = 1e-5  # of norms that do not say (OLMo 1)


@torch.no_grad()
def norm_of(module: Any, dtype: torch.dtype, width: int | None = None, device: Any = "cpu") -> Norm:
    """Find the norm that gives what the module gives.

    Args:
        module: with weights, or without (on the meta device): then its like is tried.
        dtype: what the model computes in.
        width: of what goes through it, where the module has no weight; None: it must have one.
        device: where such a one computes.

    Raises:
        NotRecognised: it is none that is known.
    """
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    unknown = NotRecognised(f"a norm of the kind {type(module).__name__}")
    if (weight is None and width is None) or (weight is not None and weight.dim() != 1):
        raise unknown
    if weight is not None and weight.is_meta:
        module = _filled(module)
        weight, bias = module.weight, getattr(module, "bias", None)
    size = weight.numel() if weight is not None else width
    if weight is not None:
        device = weight.device
    elif torch.device(device).type == "meta":
        device = "cpu"
    x = 1e-3 * torch.randn(4, size or 0, generator=torch.Generator().manual_seed(0)).to(device)
    x = x.to(dtype) + (2e-3 if bias is not None else 0)  # a mean that is taken away must show
    wanted = module(x).float()
    found = min(
        _candidates(module, weight, bias, device, size or 0),
        key=lambda norm: float((rmsnorm.reference(x, norm).float() - wanted).norm()),
    )
    apart = (rmsnorm.reference(x, found).float() - wanted).norm()
    if not bool(apart <= _CLOSE * wanted.norm()):
        raise unknown
    return found


def _candidates(module: Any, weight: Any, bias: Any, device: Any, size: int) -> list[Norm]:
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    scale = torch.ones(size, device=device) if weight is None else weight.data.float()
    return [
        Norm(
            weight=scale + offset,
            eps=_USUAL_EPS if eps is None else float(eps),
            late=late,
            bias=None if bias is None else bias.data.float(),
            centred=centred,
        )
        for centred, offset, late in itertools.product(
            (False, True), (0.0,) if weight is None else (0.0, 1.0), (False, True)
        )
    ]


def _filled(module: Any) -> Any:
    """Give a module of the same kind with numbers in it."""
    like = copy.deepcopy(module).to_empty(device="cpu")
    for number, weight in enumerate(like.parameters()):
        weight.data.normal_(generator=torch.Generator().manual_seed(number)).mul_(0.3).add_(0.8)
    return like
