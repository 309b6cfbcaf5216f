"""LoRA weights as the products read them, and their gradients, which the layers add up themselves.

PEFT's modules stay the owners: its weights are copied (and rounded) before each step, and
its ``.grad`` are views of one fp32 tensor that the layers add to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch

from runner.training.kernels.dropout import Draws, add_dropped, dropped


@dataclass(frozen=True, kw_only=True)
class Lora:
    """One projection's adapter, as PEFT holds it."""

    down: torch.nn.Parameter
    """A: rank × inputs."""
    up: torch.nn.Parameter
    """B: outputs × rank."""
    scale: float
    dropout: float = 0.0
    """How likely a number of the input is dropped."""

    @property
    def rank(self) -> int:
        """Rows of A."""
        return int(self.down.shape[0])


@dataclass(kw_only=True)
class GroupAdapter:
    """The adapters of projections that read one tensor."""

    loras: Sequence[Lora]
    outputs: Sequence[tuple[int, int]]
    """Each one's columns within the group's output."""
    down: torch.Tensor
    """All A, one above the other."""
    up: torch.Tensor
    """All B times their scales, on the diagonal of a matrix that is else 0: one product for all."""
    down_grad: torch.Tensor
    up_grads: list[torch.Tensor] = field(default_factory=list)

    number: int = 0
    """Its place among the groups, by which it draws."""

    def _parts(self) -> Iterator[tuple[int, Lora, slice]]:
        """Give each adapter's number, itself, and its rows of all A."""
        at = 0
        for number, lora in enumerate(self.loras):
            yield number, lora, slice(at, at + lora.rank)
            at += lora.rank

    def _drops(self, draws: Draws | None) -> TypeGuard[Draws]:
        return draws is not None and any(lora.dropout for lora in self.loras)

    def _seen(self, x: torch.Tensor, draws: Draws, number: int, lora: Lora) -> torch.Tensor:
        """Give the input as an adapter sees it."""
        if not lora.dropout:
            return x
        return dropped(x, lora.dropout, draws.key(self.number, number), draws.line)

    def inner(self, x: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        """Give x A^T."""
        if not self._drops(draws):
            return x @ self.down.t()
        return torch.cat(
            [
                self._seen(x, draws, number, lora) @ self.down[rows].t()
                for number, lora, rows in self._parts()
            ],
            dim=1,
        )

    def inner_into(self, out: torch.Tensor, x: torch.Tensor, draws: Draws | None) -> None:
        """Write x A^T into lines that may lie apart."""
        if self._drops(draws):
            out.copy_(self.inner(x, draws))
        else:
            torch.mm(x, self.down.t(), out=out)

    def back(self, into: torch.Tensor, inner: torch.Tensor, draws: Draws | None) -> None:
        """Add to the input's gradient, from the gradient of x A^T."""
        if not self._drops(draws):
            into.addmm_(inner, self.down)
            return
        for number, lora, rows in self._parts():
            found = inner[:, rows] @ self.down[rows]
            if lora.dropout:
                key = draws.key(self.number, number)
                add_dropped(into, found, lora.dropout, key, draws.line)
            else:
                into.add_(found)

    def grads(
        self, x: torch.Tensor, grad: torch.Tensor, back: torch.Tensor, draws: Draws | None
    ) -> None:
        """Add up the gradients of A and B; ``back`` is the output's gradient times B."""
        drops = self._drops(draws)
        whole = None if drops else self.inner(x)
        if not drops:
            add_product(self.down_grad, back.t(), x)
        for (number, lora, rows), (start, end), into in zip(
            self._parts(), self.outputs, self.up_grads, strict=True
        ):
            if whole is None and draws is not None:
                seen = self._seen(x, draws, number, lora)
                add_product(self.down_grad[rows], back[:, rows].t(), seen)
                part = seen @ self.down[rows].t()
            elif whole is not None:
                part = whole[:, rows]
            add_product(into, grad[:, start:end].t(), part, scale=lora.scale)


class Adapter:
    """The whole adapter: every group's copy, and one tensor of all gradients."""

    def __init__(self, dtype: torch.dtype, device: Any) -> None:
        """Begin with no group."""
        self.dtype, self.device = dtype, device
        self.groups: list[GroupAdapter] = []
        self._weights: list[torch.nn.Parameter] = []
        self._copies: list[torch.Tensor] = []
        self._pairs: list[tuple[list[torch.Tensor], list[torch.nn.Parameter]]] = []
        self._ups: list[torch.Tensor] = []
        self._scales: list[float] = []
        self._grads: list[torch.Tensor] = []
        self.flat_grad = torch.empty(0)
        self.version = 0
        """Of the copies: one more whenever they are taken anew."""

    @property
    def drops(self) -> bool:
        """Whether any adapter has dropout."""
        return any(lora.dropout for group in self.groups for lora in group.loras)

    @property
    def weights(self) -> Sequence[torch.nn.Parameter]:
        """PEFT's weights."""
        return self._weights

    def add(self, loras: Sequence[Lora | None], outputs: Sequence[int]) -> GroupAdapter | None:
        """Take the adapters of a group of projections; None where no projection has one."""
        there, columns, at = [], [], 0
        for lora, width in zip(loras, outputs, strict=True):
            if lora is not None:
                there.append(lora)
                columns.append((at, at + width))
            at += width
        if not there:
            return None
        rank, inputs = sum(lora.rank for lora in there), int(there[0].down.shape[1])
        group = GroupAdapter(
            loras=there,
            outputs=columns,
            down=torch.empty(rank, inputs, dtype=self.dtype, device=self.device),
            up=torch.zeros(at, rank, dtype=self.dtype, device=self.device),
            down_grad=torch.empty(0),
            number=len(self.groups),
        )
        at = 0
        for lora, (start, end) in zip(there, columns, strict=True):
            self._weights += [lora.down, lora.up]
            up = group.up[start:end, at : at + lora.rank]
            self._copies += [group.down[at : at + lora.rank], up]
            self._ups.append(up)
            self._scales.append(lora.scale)
            at += lora.rank
        self.groups.append(group)
        return group

    def finish(self) -> None:
        """Lay out the gradients, once every group is there."""
        sizes = [weight.numel() for weight in self._weights]
        self.flat_grad = torch.zeros(sum(sizes), dtype=torch.float32, device=self.device)
        at = 0
        for group in self.groups:
            first, grads = at, []
            # A's lie side by side, so that one product adds to all of them.
            for lora in group.loras:
                grads.append(self.flat_grad[at : at + lora.down.numel()].view_as(lora.down))
                at += lora.down.numel()
            group.down_grad = self.flat_grad[first:at].view_as(group.down)
            for lora in group.loras:
                group.up_grads.append(self.flat_grad[at : at + lora.up.numel()].view_as(lora.up))
                at += lora.up.numel()
            for down, up in zip(grads, group.up_grads, strict=True):
                self._grads += [down, up]
        # One launch copies all that lie in one piece; among others, one apiece copies everything.
        for whole in (True, False):
            at_once = [
                (copy, weight)
                for copy, weight in zip(self._copies, self._weights, strict=True)
                if copy.is_contiguous() is whole
            ]
            if at_once:
                self._pairs.append(([c for c, _ in at_once], [w for _, w in at_once]))
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy PEFT's weights: they changed with the last optimizer step or were loaded."""
        self.version += 1
        for copies, weights in self._pairs:
            torch._foreach_copy_(copies, [weight.data for weight in weights])
        if any(scale != 1 for scale in self._scales):
            torch._foreach_mul_(self._ups, self._scales)

    @torch.no_grad()
    def silence(self) -> None:
        """Let the copies add nothing, until they are taken anew: the model without its adapter."""
        self.version += 1
        torch._foreach_zero_(self._ups)

    def begin(self) -> None:
        """Before a micro-batch: take the weights as they are, and start sums that are not begun."""
        self.refresh()
        if any(
            weight.grad is not grad for weight, grad in zip(self._weights, self._grads, strict=True)
        ):
            self.flat_grad.zero_()
            for weight, grad in zip(self._weights, self._grads, strict=True):
                weight.grad = grad


_widens = [True]
"""Whether this torch adds a bf16 product to an fp32 sum in one call; found out once."""


def add_product(
    into: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, scale: float = 1.0
) -> None:
    """Add ``scale`` × left × right to an fp32 sum."""
    if left.is_cuda and left.dtype != torch.float32 and _widens[0]:
        try:
            torch.addmm(into, left, right, out_dtype=torch.float32, alpha=scale, out=into)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError):  # this torch or this card cannot
            _widens[0] = False
        else:
            return
    into.add_(left @ right, alpha=scale)
