"""What the layers of a long pass keep, in the host's memory until they go backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class HostStore:
    """Tensors of each layer, sent to the host and brought back one layer ahead of their use."""

    def __init__(self, device: Any) -> None:
        """Begin empty; host memory is taken for the longest row that comes, and kept."""
        self._device = torch.device(device)
        # A stream of its own: copies go on beside the products of the layers before and after.
        self._side = None if self._device.type == "cpu" else torch.cuda.Stream(self._device)
        self._host: dict[int, list[torch.Tensor]] = {}
        self._places: list[list[torch.Tensor]] = []
        self._arrived: dict[int, Any] = {}
        self._leaving: Sequence[torch.Tensor] = ()
        self._lines = 0

    def put(self, layer: int, tensors: Sequence[torch.Tensor]) -> None:
        """Send a layer's tensors to the host; the copy goes on beside what follows."""
        self._let_leave()
        self._lines = tensors[0].shape[0]
        self._copy(self._host_of(layer, tensors), tensors)
        self._leaving = tensors  # their memory is not used anew before the copy has ended

    def get(self, layer: int) -> list[torch.Tensor]:
        """Give a layer's tensors, valid until the next call, and begin to bring those below."""
        self._let_leave()
        self._fetch(layer)
        arrived = self._arrived.pop(layer)
        if arrived is not None:
            torch.cuda.current_stream().wait_event(arrived)
        self._fetch(layer - 1)
        return self._places[layer % 2]

    def drop(self) -> None:
        """Give the card's memory back, after a pass or in the middle of one that failed."""
        self._let_leave()
        self._places, self._arrived = [], {}

    def _host_of(self, layer: int, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        known = self._host.get(layer)
        if known is None or known[0].shape[0] < self._lines:
            self._host.pop(layer, None)  # before more is asked for
            known = self._host[layer] = [
                torch.empty(one.shape, dtype=one.dtype, pin_memory=self._side is not None)
                for one in tensors
            ]
        return [one[: self._lines] for one in known]

    def _fetch(self, layer: int) -> None:
        if layer < 0 or layer in self._arrived:
            return
        host = [one[: self._lines] for one in self._host[layer]]
        if not self._places:
            self._places = [
                [torch.empty_like(one, device=self._device, pin_memory=False) for one in host]
                for _ in range(2)
            ]
        self._copy(self._places[layer % 2], host)
        self._arrived[layer] = None if self._side is None else self._side.record_event()

    def _copy(self, to: Sequence[torch.Tensor], of: Sequence[torch.Tensor]) -> None:
        if self._side is None:
            torch._foreach_copy_(list(to), list(of))
            return
        self._side.wait_stream(torch.cuda.current_stream())  # what is asked for so far comes first
        with torch.cuda.stream(self._side):
            for place, tensor in zip(to, of, strict=True):
                place.copy_(tensor, non_blocking=True)

    def _let_leave(self) -> None:
        if self._side is not None and self._leaving:
            torch.cuda.current_stream().wait_stream(self._side)
        self._leaving = ()
