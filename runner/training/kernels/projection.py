"""Projections that read one tensor (q/k/v, gate/up), computed as one product, LoRA beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from runner.training.kernels import fp8
from runner.training.kernels.adapter import Adapter, GroupAdapter, Lora
from runner.training.kernels.dropout import Draws
from runner.training.kernels.nf4 import Nf4Piece, stack
from runner.training.kernels.not_recognised import NotRecognised


@dataclass(frozen=True, kw_only=True)
class Projection:
    """One linear layer of the model: frozen, with or without an adapter."""

    weight: Any
    """A float matrix, or bitsandbytes' NF4 weight."""
    bias: torch.Tensor | None
    outputs: int
    inputs: int
    lora: Lora | None


_ALIGNED = 64  # numbers: lines of a place begin where the card reads them at once (128 bytes)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Room for what a product reads: the input, and beside each line what LoRA's A makes of it.

    B lies beside the weights likewise, so one product gives both: LoRA beside the product instead
    would read and write all of what that gave once more (4% of 8B's time on an H200).
    """

    whole: torch.Tensor
    seen: torch.Tensor
    """The input's columns."""
    inner: torch.Tensor
    """A's."""


def _lines(count: int, width: int, like: Group) -> torch.Tensor:
    stride = -(-width // _ALIGNED) * _ALIGNED
    whole = torch.empty(count, stride, dtype=like.dtype, device=like.device)
    if whole.device.type == "cpu":
        # oneDNN's products in bf16 read lines to their aligned end: what lies there by chance may
        # be NaN. cuBLAS does not, and a launch for each place would cost the card's host time.
        whole[:, width:].zero_()
    return whole[:, :width]


class Buffers:
    """Where NF4 weights are unpacked to: places that groups share, and whose weights lie there."""

    def __init__(self) -> None:
        """Begin with none."""
        self._of: dict[str, torch.Tensor] = {}
        self._now: dict[str, Group] = {}
        self._beside: dict[str, tuple[Group, int]] = {}
        """Whose B lies beside the weights of a kind, and of which of its versions."""
        self.scratch = fp8.Scratch()

    def forget(self) -> None:
        """Give the memory back; it is taken again when weights are asked for."""
        self._of.clear()
        self._now.clear()
        self._beside.clear()
        self.scratch.forget()

    def give_up(self, kind: str) -> None:
        """Give one place's memory back."""
        for of in (self._of, self._now, self._beside):
            of.pop(kind, None)

    def in_fp8(self, group: Group, scales: torch.Tensor, *, turned: bool) -> torch.Tensor:
        """Give a group's weights in fp8, turned for the way back."""
        kind = f"{group.kind} turned" if turned else f"{group.kind} in fp8"
        if kind not in self._of:
            shape = (group.outputs, group.inputs)
            self._of[kind] = torch.empty(
                shape[::-1] if turned else shape, dtype=fp8.FP8, device=group.device
            )
        out = self._of[kind]
        if self._now.get(kind) is not group:
            fp8.unpack(group.here(), out, scales, turned=turned)
            self._now[kind] = group
        return out

    def weight(self, group: Group) -> torch.Tensor:
        """Give a group's weights, unpacked unless they still lie there."""
        return self._unpacked(group)[:, : group.inputs]

    def weight_and_b(self, group: Group, adapter: GroupAdapter, version: int) -> torch.Tensor:
        """Give a group's weights with its B beside them."""
        kind, whole = group.place_kind, self._unpacked(group)
        if self._beside.get(kind) != (group, version):
            whole[:, group.inputs :].copy_(adapter.up)
            self._beside[kind] = (group, version)
        return whole

    def _unpacked(self, group: Group) -> torch.Tensor:
        kind = group.place_kind
        if kind not in self._of:
            self._of[kind] = _lines(group.outputs, group.inputs + group.beside, group)
        out = self._of[kind]
        if self._now.get(kind) is not group:
            at = 0
            for piece in group.here():
                piece.unpack_into(out[at : at + piece.rows, : group.inputs])
                at += piece.rows
            self._now[kind] = group
        return out


class Group:
    """Linear layers that read one tensor, as one."""

    def __init__(
        self, kind: str, projections: Sequence[Projection], adapter: Adapter, buffers: Buffers
    ) -> None:
        """Stack the weights; the model's own modules go on working on views of them."""
        self.kind, self._buffers = kind, buffers
        self.dtype, self.device = adapter.dtype, adapter.device
        self.inputs = projections[0].inputs
        self.outputs = sum(one.outputs for one in projections)
        self.pieces: list[Nf4Piece] = []
        self.fetch: Callable[[], list[Nf4Piece]] | None = None
        """Brings them to the card, where they wait on the host."""
        self._dense: torch.Tensor | None = None
        if projections[0].weight.dtype == torch.uint8:
            self.pieces = stack([one.weight for one in projections])
        else:
            self._dense = _stack_dense([one.weight for one in projections])
        self.bias = _stack_biases(projections, adapter)
        self.scales: fp8.Scales | None = None
        """Of its weights in fp8; None: products are as exact as the model's."""
        self.adapter: GroupAdapter | None = adapter.add(
            [one.lora for one in projections], [one.outputs for one in projections]
        )
        self._all = adapter
        fits = self.adapter is not None and self._dense is None
        self.beside = self.adapter.up.shape[1] if self.adapter is not None and fits else 0
        """Columns beside its weights where B lies; 0: it lies elsewhere."""
        self._shared_place = self.place_kind = f"{kind}, {self.beside} beside"

    def here(self) -> list[Nf4Piece]:
        """Give its weights in 4 bits, on the card."""
        return self.pieces if self.fetch is None else self.fetch()

    def stay_unpacked(self, stay: bool) -> None:  # noqa: FBT001
        """Have a place for its weights alone, or the one of its kind."""
        own = f"{self._shared_place} of {id(self)}"
        if not stay:
            self._buffers.give_up(own)
        self.place_kind = own if stay else self._shared_place

    def place(self, lines: int) -> Place | None:
        """Give room for an input of so many lines; None: it may lie anywhere."""
        if not self.beside or self.scales is not None:
            return None
        whole = _lines(lines, self.inputs + self.beside, self)
        return Place(whole=whole, seen=whole[:, : self.inputs], inner=whole[:, self.inputs :])

    def weight(self) -> torch.Tensor:
        """Give the weights: outputs × inputs."""
        return self._buffers.weight(self) if self._dense is None else self._dense

    def measure_fp8(self) -> fp8.Scales:
        """Find the scales for products in fp8.

        Raises:
            NotRecognised: it cannot be multiplied so.
        """
        why = fp8.unfit(self.outputs, self.inputs)
        if why is None and self._dense is not None:
            why = "weights that are not in 4 bits"
        if why is not None:
            raise NotRecognised(why)
        return fp8.scales_of(self.weight())

    def forward(
        self,
        x: torch.Tensor,
        residual: torch.Tensor | None = None,
        *,
        scale: float = 1.0,
        draws: Draws | None = None,
        place: Place | None = None,
    ) -> torch.Tensor:
        """Give x W^T, with bias and adapter; with a residual, that plus ``scale`` times it.

        ``place``: what was given for ``x``, which lies there.
        """
        if self.scales is not None:
            y = self._in_fp8(x, self.scales, residual, scale)
            if self.adapter is not None:
                y.addmm_(self.adapter.inner(x, draws), self.adapter.up.t(), alpha=scale)
            return y
        adapter = self.adapter
        if place is not None and adapter is not None:
            adapter.inner_into(place.inner, x, draws)
            x, weight = (
                place.whole,
                self._buffers.weight_and_b(self, adapter, self._all.version).t(),
            )
            adapter = None
        else:
            weight = self.weight().t()
        if residual is not None:
            y = torch.addmm(residual, x, weight, alpha=scale)
            if self.bias is not None:
                y.add_(self.bias, alpha=scale)
        elif self.bias is not None:
            y = torch.addmm(self.bias, x, weight)
        else:
            y = x @ weight
        if adapter is not None:
            y.addmm_(adapter.inner(x, draws), adapter.up.t(), alpha=scale)
        return y

    def _in_fp8(
        self, x: torch.Tensor, scales: fp8.Scales, residual: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        weight = self._buffers.in_fp8(self, scales.rows, turned=False)
        y = fp8.product(x, weight, scales.rows, self._buffers.scratch)
        if self.bias is not None:
            y.add_(self.bias)
        return y if residual is None else y.mul_(scale).add_(residual)

    def inner_grad(self, grad: torch.Tensor) -> torch.Tensor | None:
        """Give the gradient of x A^T."""
        return None if self.adapter is None else grad @ self.adapter.up

    def backward(
        self, grad: torch.Tensor, inner: torch.Tensor | None, draws: Draws | None
    ) -> torch.Tensor:
        """Give the gradient of the input."""
        if self.scales is not None:
            turned = self._buffers.in_fp8(self, self.scales.columns, turned=True)
            dx = fp8.product(grad, turned, self.scales.columns, self._buffers.scratch)
        else:
            dx = grad @ self.weight()
        if self.adapter is not None and inner is not None:
            self.adapter.back(dx, inner, draws)
        return dx

    def add_grads(
        self,
        x: torch.Tensor,
        grad: torch.Tensor,
        inner: torch.Tensor | None,
        draws: Draws | None,
    ) -> None:
        """Add to the adapter's gradients."""
        if self.adapter is not None and inner is not None:
            self.adapter.grads(x, grad, inner, draws)


def _stack_dense(weights: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    if len(weights) == 1:
        return weights[0].data
    joined = torch.cat([weight.data for weight in weights])
    at = 0
    for weight in weights:
        weight.data = joined[at : at + weight.shape[0]]
        at += weight.shape[0]
    return joined


def _stack_biases(projections: Sequence[Projection], adapter: Adapter) -> torch.Tensor | None:
    if all(one.bias is None for one in projections):
        return None
    parts = [
        torch.zeros(one.outputs, device=adapter.device) if one.bias is None else one.bias.data
        for one in projections
    ]
    return torch.cat([part.to(adapter.dtype) for part in parts])
