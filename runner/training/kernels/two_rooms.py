"""Two rooms on a card for layers that wait in host memory: one is at work, the next one arrives.

Weights are frozen, so a layer's bytes are only ever read: they are copied to one of two rooms while
the layer before is at work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

_ALIGNED = 256  # bytes; where the card's reads are quickest


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one tensor of a layer lies within the layer's bytes."""

    start: int
    tensor: torch.Tensor
    """Of its shape and kind; on no device."""

    def within(self, whole: torch.Tensor) -> torch.Tensor:
        """View it."""
        size = self.tensor.numel() * self.tensor.element_size()
        part = whole[self.start : self.start + size]
        return part.view(self.tensor.dtype).view(self.tensor.shape)


class Packing:
    """Lays tensors of a layer one behind the other."""

    def __init__(self) -> None:
        self._tensors: list[torch.Tensor] = []
        self._places: list[Place] = []
        self._end = 0

    def add(self, tensor: torch.Tensor) -> Place:
        """Lay a tensor behind the others; say where it will lie."""
        place = Place(start=self._end, tensor=tensor.to("meta"))
        size = tensor.numel() * tensor.element_size()
        self._end = -(-(self._end + size) // _ALIGNED) * _ALIGNED
        self._tensors.append(tensor)
        self._places.append(place)
        return place

    def on_host(self, *, pinned: bool) -> torch.Tensor:
        """Copy them to host memory.

        Args:
            pinned: copies to a card then run beside its work.

        Returns:
            (bytes,), uint8.
        """
        whole = torch.empty(self._end, dtype=torch.uint8, pin_memory=pinned)
        for tensor, place in zip(self._tensors, self._places, strict=True):
            place.within(whole).copy_(tensor)
        return whole


class TwoRooms:
    """Layers' bytes in host memory, and two rooms on the card that they take turns in."""

    def __init__(self, layers: Mapping[int, torch.Tensor], device: Any) -> None:
        """Make the rooms.

        Args:
            layers: each one's bytes, by its number; in ascending order.
            device: the card.
        """
        device = torch.device(device)
        self._side = torch.cuda.Stream(device) if device.type != "cpu" else None
        self._bytes, self._order = layers, list(layers)
        size = max((whole.numel() for whole in layers.values()), default=0)
        self._rooms = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2)]
        self._inside: list[int | None] = [None, None]
        self._arrived: list[Any] = [None, None]
        self._last: int | None = None
        self._forward = True
        self.copies = 0

    def bring(self, number: int) -> torch.Tensor:
        """Give a layer's bytes on the card, and begin to bring the layer that comes next.

        They are good until the layer after the next is asked for.
        """
        if self._last is not None and number != self._last:
            self._forward = number > self._last
        self._last = number
        if number not in self._inside:
            self._bring(number, room=0)
        room = self._inside.index(number)
        if (event := self._arrived[room]) is not None:
            torch.cuda.current_stream().wait_event(event)
            self._arrived[room] = None
        after = self._next(number)
        if after not in self._inside:
            self._bring(after, room=1 - room)
        return self._rooms[room]

    def _next(self, number: int) -> int:
        """Guess which layer comes next: on in the same direction, and back at either end."""
        at = self._order.index(number) + (1 if self._forward else -1)
        if not 0 <= at < len(self._order):
            at += -2 if self._forward else 2
        return self._order[min(max(at, 0), len(self._order) - 1)]

    def _bring(self, number: int, *, room: int) -> None:
        self.copies += 1
        host = self._bytes[number]
        place = self._rooms[room][: host.numel()]
        self._inside[room] = number
        if self._side is None:
            place.copy_(host)
            return
        # What was asked for so far still reads the room, or has ended.
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            place.copy_(host, non_blocking=True)
        self._arrived[room] = self._side.record_event()
