"""Layers in turn: a base in 4 bits that a card has no room for, run by the model's own code.

Answers need that code and its cache of keys and values. Decoder layers whose weights wait in host
memory get them on the card just before they run, the next one's arrive meanwhile. The bytes are the
same, and so is every number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from runner.training.fit.share_base import TRIED, away, place_on_card, refuse
from runner.training.kernels.two_rooms import Packing, Place, TwoRooms


@dataclass(frozen=True, kw_only=True)
class _Weight:
    """A 4-bit weight of a waiting layer: bitsandbytes' own object, and where its bytes lie."""

    weight: Any
    packed: Place
    scales: Place

    def lie_in(self, whole: torch.Tensor) -> None:
        """Let the layer read it from there."""
        self.weight.data = self.packed.within(whole)
        self.weight.quant_state.absmax = self.scales.within(whole)


@torch.no_grad()
def run_in_turn(model: Any, *, shared_by: int, device: str) -> TwoRooms:
    """Put a PEFT model that was loaded into host memory on a card that has no room for all of it.

    Args:
        model: its base in 4 bits, every adapter loaded.
        shared_by: cards that shared the base in training, each keeping every Nth layer.
        device: the card.

    Raises:
        StageError: its layers do not stand where those of a language model do.
    """
    if not hasattr(model.get_base_model().model, "layers"):
        raise refuse("it also reads pictures")
    place_on_card(model, ranks=shared_by, device=device)
    layers: Sequence[Any] = model.get_base_model().model.layers
    waiting = [number for number in away(len(layers), shared_by) if number >= TRIED]
    parts, hosts = {}, {}
    for number in waiting:
        packing, found = Packing(), []
        for module in layers[number].modules():
            weight: Any = getattr(module, "weight", None)
            state = getattr(weight, "quant_state", None)
            if state is None:
                continue
            _small_ones_to(state, device)
            places = packing.add(weight.data), packing.add(state.absmax)
            found.append(_Weight(weight=weight, packed=places[0], scales=places[1]))
        hosts[number] = packing.on_host(pinned=device != "cpu")
        parts[number] = found
        _lie_in(found, hosts[number])
    rooms = TwoRooms(hosts, device)
    for number in waiting:
        arrive = partial(_arrive, rooms, number, parts[number])
        layers[number].register_forward_pre_hook(arrive)
        leave = partial(_leave, parts[number], hosts[number])
        layers[number].register_forward_hook(leave, always_call=True)
    return rooms


def _small_ones_to(state: Any, device: str) -> None:
    """Move what is small, and needed with every layer, for good."""
    state.code = state.code.to(device)
    if state.nested:
        state.offset = state.offset.to(device)
        state.state2.absmax = state.state2.absmax.to(device)
        state.state2.code = state.state2.code.to(device)


def _arrive(rooms: TwoRooms, number: int, weights: list[_Weight], *_: Any) -> None:
    _lie_in(weights, rooms.bring(number))


def _leave(weights: list[_Weight], host: torch.Tensor, *_: Any) -> None:
    """Name the host's bytes again: the room will hold another layer's."""
    _lie_in(weights, host)


def _lie_in(weights: list[_Weight], whole: torch.Tensor) -> None:
    for one in weights:
        one.lie_in(whole)
