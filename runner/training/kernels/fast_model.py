"""A recognised model that goes forward and backward over a batch, pass by pass, without padding."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from runner.forecast.passes import (
    Passes,
    Sizes,
    fixed_bytes,
    goes_long,
    layers_kept,
    measured_at_once,
)
from runner.training.kernels.dropout import Draws
from runner.training.kernels.host_store import HostStore
from runner.training.kernels.layer import Layer, LayerFunction
from runner.training.kernels.long_layer import LongLayerFunction
from runner.training.kernels.loss import HeadLoss, row_losses
from runner.training.kernels.recognise import Parts
from runner.training.kernels.rows import Row, Rows, divide, lay_out


@dataclass(kw_only=True)
class FastModel:
    """Trains the adapter of a recognised model."""

    parts: Parts
    passes: Passes
    sizes: Sizes = field(init=False)
    _store: HostStore | None = field(init=False, default=None)
    fp8: bool = False
    """The base's products are computed in eight bits while training."""
    between_passes: Callable[[], None] = lambda: None
    """Called between passes; may raise to end the step."""
    more_room: Callable[[], bool] = lambda: False
    """Called where memory ran out and nothing is lost yet; True: the work is done once more."""

    def __post_init__(self) -> None:
        """Count the bytes."""
        parts = self.parts
        self.sizes = measure(
            parts.layers,
            parts.head.weight.shape[0],
            parts.dtype.itemsize,
            drops=parts.adapter.drops,
            fp8=self.fp8,
            embedding=parts.movable_words * parts.dtype.itemsize,
        )

    @property
    def device(self) -> Any:
        """Where the model computes."""
        return self.parts.head.weight.device

    def train_on(self, batch: Sequence[Row], learned_in_step: torch.Tensor | int) -> torch.Tensor:
        """Add the gradients of a micro-batch to PEFT's weights; give its share of the step's loss.

        Args:
            batch: rows.
            learned_in_step: the tokens that the whole optimizer step learns.
        """
        self.parts.adapter.begin()
        items = torch.as_tensor(learned_in_step, dtype=torch.float32, device=self.device)
        scale = 1.0 / items.clamp(min=1)  # of a step that learns nothing the loss is 0
        total = torch.zeros((), device=self.device)
        for number, chosen in enumerate(
            divide([ids.numel() for ids, _ in batch], self.passes.most_tokens)
        ):
            if number:
                self.between_passes()
            total = total + self._pass([batch[i] for i in chosen], scale)
        return total

    def _pass(self, batch: Sequence[Row], scale: torch.Tensor) -> torch.Tensor:
        rows = lay_out(batch, self.device, fill=self.device.type != "cpu")
        if not rows.learned.numel():
            return torch.zeros((), device=self.device)
        if self.parts.adapter.drops:
            # From torch's own state: a run that goes on from a checkpoint draws what it would have.
            rows = replace(rows, draws=Draws(seed=int(torch.randint(2**31, ()))))
        try:
            tokens = sum(ids.numel() for ids, _ in batch)
            on_host = goes_long(self.sizes, self.passes, tokens)
            loss = self._with_room(partial(self._forward, rows, scale, on_host=on_host))
            loss.backward()
        finally:
            if self._store is not None:
                self._store.drop()
        return loss.detach()

    def _with_room(self, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Do what changes nothing that lasts; once more where there is more room than was taken."""
        try:
            return work()
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)
            if not self.more_room():
                raise
        if self._store is not None:  # out here nothing holds on to the tensors of the error
            self._store.drop()
        return work()

    @torch.no_grad()
    def measure(self, batch: Sequence[Row]) -> torch.Tensor:
        """Give each row's summed loss, in one pass forward that keeps nothing; as fp64."""
        return self._with_room(partial(self._measured, batch))

    def _measured(self, batch: Sequence[Row]) -> torch.Tensor:
        rows = lay_out(batch, self.device, fill=self.device.type != "cpu")
        if not rows.learned.numel():
            return torch.zeros(len(batch), dtype=torch.float64, device=self.device)
        parts = self.parts
        x = parts.embedded(rows)
        tile_by_tile = rows.tokens > measured_at_once(self.sizes, self.passes)
        for number, layer in enumerate(parts.layers):
            if tile_by_tile:
                x = LongLayerFunction.apply(x, layer, rows, number, None)
            else:
                x = LayerFunction.apply(x, layer, rows, False)
        return row_losses(x, parts.last_norm, parts.head, rows, self.passes.chunk)[: len(batch)]

    @property
    def store(self) -> HostStore:
        """Where long rows' layers keep; made when the first of them comes."""
        if self._store is None:
            self._store = HostStore(self.device)
        return self._store

    def _forward(self, rows: Rows, scale: torch.Tensor, *, on_host: bool) -> torch.Tensor:
        parts = self.parts
        with torch.no_grad():
            x = parts.embedded(rows)
        x = x.detach().requires_grad_()
        if on_host:
            for number, layer in enumerate(parts.layers):
                x = LongLayerFunction.apply(x, layer, rows, number, self.store)
        else:
            first_kept = len(parts.layers) - layers_kept(self.sizes, self.passes, rows.tokens)
            for number, layer in enumerate(parts.layers):
                x = LayerFunction.apply(x, layer, rows, number >= first_kept)
        return HeadLoss.apply(x, parts.last_norm, parts.head, rows, scale, self.passes.chunk)


def _unpacked(layer: Layer) -> int:
    """Count the numbers of a layer's weights in 4 bits, once they are unpacked."""
    packed = [group for group in layer.groups if group.pieces]
    return sum(group.outputs * (group.inputs + group.beside) for group in packed)


def measure(
    layers: Sequence[Layer],
    vocabulary: int,
    item_bytes: int,
    *,
    drops: bool = False,
    fp8: bool = False,
    embedding: int = 0,
) -> Sizes:
    """Count from the largest of the layers; ``embedding``: bytes of a table that can move."""
    # What goes into a product is there in eight bits as well, and its place stays: gate's and up's
    # gradient is widest.
    eighth = fp8 * max(max(layer.gate_up.outputs, layer.heads.width) for layer in layers)
    hidden = layers[0].qkv.inputs
    of_out = hidden * max(layer.out_norm is not None for layer in layers)
    of_down = hidden * max(layer.down_norm is not None for layer in layers)
    full = max(
        item_bytes
        * (
            2 * hidden  # its input and the middle of it
            + of_out
            + of_down  # what norms behind products need
            + layer.heads.width
            + layer.heads.q_heads * layer.heads.size  # attention's output
            + layer.gate_up.outputs
        )
        + 4 * layer.heads.q_heads  # attention's row sums, fp32
        for layer in layers
    )
    # A product's gradient apart from that of what it was added to.
    apart = hidden * max(
        layer.added != 1 or layer.out_norm is not None or layer.down_norm is not None
        for layer in layers
    )
    widest = max(layer.down.inputs for layer in layers)
    of_heads = max(layer.heads.width for layer in layers)
    return Sizes(
        layers=len(layers),
        embedding=embedding,
        fixed=fixed_bytes(capped=any(layer.heads.cap for layer in layers)),
        lean=item_bytes * (hidden + of_down),
        full=full,
        # The MLP's way back holds its hidden gradient beside gradients of the residual; attention's
        # holds q, k and v's gradients twice while they are laid side by side.
        # Dropout makes a copy of what an adapter reads.
        back=item_bytes * (max((1 + drops) * widest, 2 * of_heads) + 4 * hidden + apart) + eighth,
        head=item_bytes * 3 * hidden + eighth,
        logits=item_bytes * (vocabulary + 3 * hidden),
        weights=sum(group.outputs * group.inputs for layer in layers for group in layer.groups),
        unpacked=0 if fp8 else max(map(_unpacked, layers)) * item_bytes,
        # The gradient, what is given and taken, the input twice (once on its way), attention's
        # output and its gradient, both ways; cuDNN and flash add queries' gradients up in fp32.
        # 65,536 tokens of 8B on an H200 took 2% less.
        long=max(
            item_bytes
            * (6 * hidden + 3 * layer.heads.q_heads * layer.heads.size + 2 * layer.heads.width)
            + 4 * layer.heads.q_heads * (layer.heads.size + len(layers))
            for layer in layers
        ),
        tile=item_bytes * ((3 + drops) * widest + 6 * hidden + 2 * apart) + eighth,
    )
