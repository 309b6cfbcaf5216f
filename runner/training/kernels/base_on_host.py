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
from runner.training.kernels.two_rooms import Packing, Place, TwoRooms

_NAMES = ("packed", "scales", "scales_2", "offsets")


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A piece, taken apart."""

    places: tuple[Place, ...]
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
        self._pieces: dict[int, list[list[_Piece]]] = {}
        self.rooms = TwoRooms(
            {number: self._take(number, layers[number]) for number in sorted(away)}, device
        )

    def _take(self, number: int, layer: Layer) -> torch.Tensor:
        packing = Packing()
        pieces: list[list[_Piece]] = []
        for group in layer.groups:
            pieces.append([])
            for piece in group.pieces:
                places = [packing.add(getattr(piece, name)) for name in _NAMES]
                pieces[-1].append(
                    _Piece(
                        places=tuple(places),
                        code=piece.code.to(self._device),
                        scale_code=piece.scale_code.to(self._device),
                        rows=piece.rows,
                        columns=piece.columns,
                    )
                )
        whole = packing.on_host(pinned=self._device.type != "cpu")
        for at, (group, parts) in enumerate(zip(layer.groups, pieces, strict=True)):
            group.pieces = [part.within(whole) for part in parts]
            group.fetch = partial(self.pieces, number, at)
        self._pieces[number] = pieces
        return whole

    def pieces(self, number: int, group: int) -> list[Nf4Piece]:
        """Give a group's weights on the card, and begin to bring the layer that comes next.

        They are good until the layer after the next is asked for.
        """
        whole = self.rooms.bring(number)
        return [piece.within(whole) for piece in self._pieces[number][group]]
