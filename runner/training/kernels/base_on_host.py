"""Base on the host: layers whose 4-bit weights wait in host memory and are fetched one ahead.

For a base that a card has no room for. Weights are frozen, so a layer's bytes are only ever read:
they are copied to one of two rooms on the card while the layer before is at work. No other card is
asked, so ranks need not go through the same passes, and one that fails keeps none waiting; a card
that cannot reach another (GeForce ones cannot) is served as well. The bytes are the same, and so is
every number.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from runner.training.kernels.layer import Layer
from runner.training.kernels.nf4 import Nf4Piece

_NAMES = ("packed", "scales", "scales_2", "offsets")
_ALIGNED = 256  # bytes; where the card's reads are quickest


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where one tensor of a layer lies within the layer's bytes."""

    start: int
    tensor: torch.Tensor
    """Of its shape and kind; on no device."""

    def within(self, whole: torch.Tensor) -> torch.Tensor:
        """View it."""
        size = self.tensor.numel() * self.tensor.element_size()
        part = whole[self.start : self.start + size]
        return part.view(self.tensor.dtype).view(self.tensor.shape)


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A piece, taken apart."""

    places: tuple[_Place, ...]
    code: torch.Tensor
    scale_code: torch.Tensor
    """Both on the card: small, and needed with every layer."""
    rows: int
    columns: int

    def within(self, whole: torch.Tensor) -> Nf4Piece:
        """Put it together again on a layer's bytes."""
        parts = dict(zip(_NAMES, (place.within(whole) for place in self.places), strict=True))
        return Nf4Piece(
            **parts,
            code=self.code,
            scale_code=self.scale_code,
            rows=self.rows,
            columns=self.columns,
        )


class BaseOnHost:
    """Some layers' weights, in host memory and in two rooms on the card."""

    def __init__(self, layers: Sequence[Layer], away: Collection[int], device: Any) -> None:
        """Move weights to the host; their groups get them from here from now on.

        Args:
            layers: all of the model's.
            away: numbers of those to move.
            device: the card.
        """
        self._device = torch.device(device)
        on_card = self._device.type != "cpu"
        self._side = torch.cuda.Stream(self._device) if on_card else None
        self._order = sorted(away)
        self._pieces: dict[int, list[list[_Piece]]] = {}
        self._bytes: dict[int, torch.Tensor] = {}
        self.copies = 0
        for number in self._order:
            self._take(number, layers[number])
        size = max((whole.numel() for whole in self._bytes.values()), default=0)
        self._rooms = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2)]
        self._inside: list[int | None] = [None, None]
        self._arrived: list[Any] = [None, None]
        self._last: int | None = None
        self._forward = True

    def _take(self, number: int, layer: Layer) -> None:
        end = 0
        pieces: list[list[_Piece]] = []
        for group in layer.groups:
            pieces.append([])
            for piece in group.pieces:
                places = []
                for name in _NAMES:
                    tensor = getattr(piece, name)
                    places.append(_Place(start=end, tensor=tensor.to("meta")))
                    size = tensor.numel() * tensor.element_size()
                    end = -(-(end + size) // _ALIGNED) * _ALIGNED
                pieces[-1].append(
                    _Piece(
                        places=tuple(places),
                        code=piece.code.to(self._device),
                        scale_code=piece.scale_code.to(self._device),
                        rows=piece.rows,
                        columns=piece.columns,
                    )
                )
        whole = torch.empty(end, dtype=torch.uint8, pin_memory=self._side is not None)
        for at, (group, parts) in enumerate(zip(layer.groups, pieces, strict=True)):
            for piece, part in zip(group.pieces, parts, strict=True):
                for name, place in zip(_NAMES, part.places, strict=True):
                    place.within(whole).copy_(getattr(piece, name))
            group.pieces = [part.within(whole) for part in parts]
            group.fetch = partial(self.pieces, number, at)
        self._bytes[number], self._pieces[number] = whole, pieces

    def pieces(self, number: int, group: int) -> list[Nf4Piece]:
        """Give a group's weights on the card, and begin to bring the layer that comes next.

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
        whole = self._rooms[room]
        return [piece.within(whole) for piece in self._pieces[number][group]]

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
