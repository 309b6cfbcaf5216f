"""Whether each layer of the fast path computes what the model's own layer does, forward and back.

The plain path runs on the starts of two rows while hooks note what goes into each layer, what
comes out, and the gradient of both. Each fast layer then gets the same inputs. So every layer is
judged by itself: rounding does not add up with depth, and a small fault is not lost in the noise of
a deep model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from runner.training.kernels.adapter import Adapter
from runner.training.kernels.layer import LayerFunction
from runner.training.kernels.loss import HeadLoss
from runner.training.kernels.recognise import Parts
from runner.training.kernels.rows import Rows, lay_out

ALLOWED = {torch.bfloat16: 0.1, torch.float32: 1e-3}
"""How far anything may be off, relative. In bf16 8B (random weights, an H100) was off by 0.0099 at
most, SmolLM2 (a CPU) by 0.0095 in its worst layer's adapters; EXAONE 4 by 0.12 and more, when
layers that know no positions were given some (a tiny one, fp32)."""
ALLOWED_IN_FP8 = 0.5
"""The same in eight bits: gradients of 8B's width are off by 0.24 in the middle and 0.39 at most
(measured on an H200); a wrong scale or a turned weight, by 1 and more."""
_TOKENS = (96, 64)  # of two rows: enough to see every part, little beside the cap
_WINDOW = 32
"""Tokens that layers with a larger window see for the time of the check: with their own, a layer
that sees more or less than the model's would look right."""
_B = 0.01  # added to B for the time of the check: a fresh adapter's is 0, and would hide A's part


@dataclass(frozen=True, kw_only=True)
class Checked:
    """How far the fast path is off."""

    worst: float
    where: str
    allowed: float

    @property
    def fits(self) -> bool:
        """Whether it may be used; no where something is not a number."""
        return self.worst <= self.allowed


@dataclass(kw_only=True)
class _Noted:
    """What the model's own layer got and gave, row by row."""

    into: list[torch.Tensor] = field(default_factory=list)
    out: list[torch.Tensor] = field(default_factory=list)


def check(
    parts: Parts,
    layers: Sequence[Any],
    ids: Sequence[Sequence[int]],
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    *,
    config: Any = None,
    allowed: float | None = None,
) -> Checked:
    """Compare the embedding, every layer and its adapters, and the head.

    Args:
        parts: the recognised model.
        layers: the model's own decoder layers.
        config: the text model's own, by which it makes its masks; None: windows stay as they are.
        ids: token ids of rows; the starts of the first two are used.
        loss_of: the model's own summed loss of a row that learns each token.
        allowed: how far anything may be off; None: as the number format lets expect.
    """
    rows = [torch.tensor(list(one[:n])) for one, n in zip(ids, _TOKENS, strict=False)]
    adapter, off = parts.adapter, _Distances(parts.dtype)
    with _some_b(adapter), _narrow(parts, config) as narrow:
        with _noting(layers) as noted:
            losses = [loss_of(row) for row in rows]
            torch.stack(losses).sum().backward()
        wanted = [weight.grad for weight in adapter.weights]
        _forget_grads(adapter)
        adapter.begin()
        laid = lay_out([(row, row) for row in rows], parts.head.weight.device, fill=False)
        _compare_layers(narrow, noted, laid, off)
        _compare_ends(parts, noted, laid, float(sum(one.detach() for one in losses)), off)
        # In eight bits together: what is allowed there was measured so.
        kinds = [
            f"layer {number}'s {group.kind} adapter"
            if allowed is None
            else f"{group.kind}'s adapter"
            for number, layer in enumerate(parts.layers)
            for group in layer.groups
            if group.adapter is not None
            for _ in range(2 * len(group.adapter.loras))
        ]
        judged = len(kinds)  # of a base that waits on the host, the first layers' alone
        for kind, weight, grad in zip(
            kinds, adapter.weights[:judged], wanted[:judged], strict=True
        ):
            off.add(kind, weight.grad, grad)
        _forget_grads(adapter)
    worst, where = off.worst()
    return Checked(worst=worst, where=where, allowed=allowed or ALLOWED[parts.dtype])


class _Distances:
    """Relative distances, summed up over all that has the same name."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._rounding = 2 * torch.finfo(dtype).eps
        self._sums: dict[str, list[float]] = {}

    def add(
        self,
        what: str,
        found: torch.Tensor | None,
        wanted: torch.Tensor,
        residual: torch.Tensor | None = None,
    ) -> None:
        """Compare; of a sum with a residual, what was added to it, beyond the sum's rounding."""
        if found is None:
            self._sums[what] = [float("nan"), 1.0]
            return
        apart = float((found.float() - wanted.float()).norm())
        size = float(wanted.float().norm())
        if residual is not None:
            less = apart - self._rounding * size
            apart = 0.0 if less < 0 else less  # not max(): that makes 0 of what is no number
            size = float((wanted.float() - residual.float()).norm())
        sums = self._sums.setdefault(what, [0.0, 0.0])
        sums[0] += apart**2
        sums[1] += size**2

    def worst(self) -> tuple[float, str]:
        """Give the largest, and of what."""
        ratios = {what: (a / max(b, 1e-30)) ** 0.5 for what, (a, b) in self._sums.items()}
        for what, ratio in ratios.items():
            if ratio != ratio:  # noqa: PLR0124  (not a number is the worst of all)
                return ratio, what
        what = max(ratios, key=ratios.__getitem__)
        return ratios[what], what


def _compare_layers(parts: Parts, noted: list[_Noted], laid: Rows, off: _Distances) -> None:
    for number, (layer, one) in enumerate(zip(parts.layers, noted, strict=True)):
        x = _joined(one.into).to(parts.dtype).requires_grad_()
        out, grad = _joined(one.out), _joined([part.grad for part in one.out])
        # Every other layer keeps everything: both ways back are tried.
        y = LayerFunction.apply(x, layer, laid, number % 2 == 0)
        y.backward(grad.to(parts.dtype))
        off.add(f"layer {number}", y.detach(), out, residual=x.detach())
        if one.into[0].grad is not None:
            wanted = _joined([part.grad for part in one.into])
            off.add(f"layer {number}'s gradient", x.grad, wanted, residual=grad)


def _compare_ends(
    parts: Parts, noted: list[_Noted], laid: Rows, loss: float, off: _Distances
) -> None:
    with torch.no_grad():
        off.add("the embedding", parts.embedded(laid), _joined(noted[0].into))
    x = _joined(noted[-1].out).to(parts.dtype).requires_grad_()
    one = torch.ones((), device=x.device)
    found = HeadLoss.apply(x, parts.last_norm, parts.head, laid, one, 64)
    found.backward()
    off.add("the loss", found.detach().cpu(), torch.tensor(loss))
    off.add("the head", x.grad, _joined([part.grad for part in noted[-1].out]))


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.detach().reshape(-1, part.shape[-1]) for part in parts])


@contextmanager
def _narrow(parts: Parts, config: Any) -> Iterator[Parts]:
    """Let the model and its recognised self see no more than `_WINDOW` tokens through a window."""
    wide = getattr(config, "sliding_window", None)
    if not isinstance(wide, int) or wide <= _WINDOW:
        yield parts
        return
    layers = [
        replace(one, heads=replace(one.heads, window=_WINDOW)) if one.heads.window else one
        for one in parts.layers
    ]
    config.sliding_window = _WINDOW
    try:
        yield replace(parts, layers=tuple(layers))
    finally:
        config.sliding_window = wide


@contextmanager
def _noting(layers: Sequence[Any]) -> Iterator[list[_Noted]]:
    """Note what goes into the layers and comes out of them."""
    noted = [_Noted() for _ in layers]

    def hook_for(one: _Noted) -> Callable[..., None]:
        def hook(_: Any, args: Any, more: dict[str, Any], out: Any) -> None:
            one.into.append(args[0] if args else more["hidden_states"])
            one.out.append(out if isinstance(out, torch.Tensor) else out[0])
            for tensor in (one.into[-1], one.out[-1]):
                if tensor.requires_grad:
                    tensor.retain_grad()

        return hook

    hooks = [
        layer.register_forward_hook(hook_for(one), with_kwargs=True)
        for layer, one in zip(layers, noted, strict=True)
    ]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _some_b(adapter: Adapter) -> Iterator[None]:
    """Add small numbers to B for the time of the check, drawn from a generator of its own."""
    ups = [lora.up for group in adapter.groups for lora in group.loras]
    before = [up.data.clone() for up in ups]
    dice = torch.Generator().manual_seed(0)
    for up in ups:
        up.data += _B * torch.randn(up.shape, generator=dice).to(up.device)
    try:
        yield
    finally:
        for up, was in zip(ups, before, strict=True):
            up.data.copy_(was)


def _forget_grads(adapter: Adapter) -> None:
    for weight in adapter.weights:
        weight.grad = None
