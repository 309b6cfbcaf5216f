"""Layers whose weights wait on the host: the right bytes, whatever is asked for, and one ahead."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import torch

from runner.training.kernels.base_on_host import BaseOnHost
from runner.training.kernels.nf4 import Nf4Piece, unpack_reference


def piece(rows: int, columns: int, dice: torch.Generator) -> Nf4Piece:
    """Make a piece of random bytes."""
    scales = rows * columns // 64
    wide = -(-scales // 256)
    return Nf4Piece(
        packed=torch.randint(256, (rows * columns // 2,), dtype=torch.uint8, generator=dice),
        scales=torch.randint(256, (scales,), dtype=torch.uint8, generator=dice),
        scales_2=torch.rand(wide, generator=dice),
        offsets=torch.rand(wide, generator=dice),
        scale_code=torch.rand(256, generator=dice),
        code=torch.rand(16, generator=dice),
        rows=rows,
        columns=columns,
    )


def layers(count: int) -> list[Any]:
    """Make what of layers the store asks for; their sizes differ."""
    dice = torch.Generator().manual_seed(0)
    return [
        SimpleNamespace(
            groups=[
                SimpleNamespace(pieces=[piece(8 + number, 64 * wide, dice)], fetch=None)
                for wide in (1, 3)
            ]
        )
        for number in range(count)
    ]


def unpacked(found: list[Nf4Piece]) -> list[torch.Tensor]:
    """Unpack a group."""
    return [unpack_reference(one, torch.float32) for one in found]


def test_every_layer_is_what_it_was_in_any_order() -> None:
    """Forward, back, and jumps between them: the weights are equal to the last bit."""
    model = layers(7)
    wanted = [[unpacked(group.pieces) for group in layer.groups] for layer in model]
    away = [1, 2, 4, 6]
    BaseOnHost(model, away, "cpu")
    assert [layer.groups[0].fetch is None for layer in model] == [n not in away for n in range(7)]
    dice = random.Random(1)
    asked = [*away, *reversed(away), *(dice.choice(away) for _ in range(200))]
    for number in asked:
        for group, parts in zip(model[number].groups, wanted[number], strict=True):
            for found, one in zip(unpacked(group.fetch()), parts, strict=True):
                assert torch.equal(found, one)


def test_the_next_layer_is_brought_ahead() -> None:
    """A pass forward and back brings each layer once a way, but for those that lie there yet."""
    model = layers(9)
    away = [1, 3, 5, 7]
    store = BaseOnHost(model, away, "cpu")
    model[1].groups[0].fetch()
    assert store.rooms.copies == 2  # itself, and the next
    for number in away[1:]:
        before = store.rooms.copies
        for group in model[number].groups:
            group.fetch()
        assert store.rooms.copies <= before + 1  # it was there; the one after it was brought
    assert store.rooms.copies == 4  # at the end the layer before is there still: it comes next
    for number in reversed(away):
        for group in model[number].groups:
            group.fetch()
    assert store.rooms.copies == 6


def test_a_measurement_is_one_ahead_when_it_begins_anew() -> None:
    """It goes forward alone: from the last layer to the first, which is not a step back."""
    model = layers(9)
    away = [1, 3, 5, 7]
    store = BaseOnHost(model, away, "cpu")
    for number in away:
        model[number].groups[0].fetch()
    before = store.rooms.copies
    model[1].groups[0].fetch()
    assert store.rooms.copies == before + 2  # itself, and the next
    model[3].groups[0].fetch()
    assert store.rooms.copies == before + 3  # it was there; the one after it was brought
