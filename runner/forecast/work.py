"""The work and the box: what a forecast is made from.

`Work` is everything of a run that its batch plan does not say: the model's sizes, the adapter, the
rows' real lengths. `Box` is what is known of the machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from runner.contract.measure_when import measured_steps
from runner.forecast.lengths import Lengths
from runner.forecast.lessons import Lesson
from runner.forecast.model_shape import Linear, ModelShape
from runner.spec.spec import JobSpec

GIB = 1024**3
MIB = 1024**2

CONTEXT_BYTES = 600 * MIB
"""CUDA's own share of a card, before this box has told its own: 0.60 GiB on an H100."""
CARD_RESERVE_BYTES = 256 * MIB
"""Of the whole card: the driver keeps some for itself, and says so only as memory that is used."""
RANK_BYTES = 840 * MIB
"""What a rank takes of its card beside CUDA's own share to speak with the others: NCCL took 0.82
GiB of each of two H200."""
RANKS_EFFICIENCY = 0.93
"""What each of several cards gives of what it would alone, beside that its passes are smaller: rows
are dealt as nearly equal as they are, and gradients are summed once a step. With it two cards are
forecast to make 8B 1.83 times as fast in large passes; two H200 made it 1.82 times as fast."""
GATHERED_LAYERS = 2
"""Layers that are there whole where the ranks share the base: the one in use, and the next."""
FP32, BF16 = 4, 2
"""Bytes of one number. The adapter, its gradients and the optimizer are in fp32, all else in 16
bits."""
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of one weight in bitsandbytes' NF4 with double quantisation: four bits, a byte of scale for
each block of 64 weights, and four bytes for each 256 of those scales."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is trained: everything of a run that its batch plan does not say."""

    shape: ModelShape
    method: str
    rank: int
    target_modules: str | tuple[str, ...]
    dropout: float
    lengths: Lengths
    """Of the rows that are trained on."""
    effective_batch_size: int
    total_steps: int
    packed_to: int | None = None
    """Rows are joined into sequences of so many tokens."""
    counted_parameters: int | None = None
    """Weights that are trained, as prepare counted them: exact for experts and odd layers, too."""
    held_out_rows: int = 0
    held_out_tokens: int = 0
    """Of one measurement of the held-out loss."""
    fast: bool = False
    """The model's layers are of the kind that the fast path knows, and the spec asks for nothing
    that it does not do."""
    fp8: bool = False
    """The fast path computes the base's products in eight bits."""
    eval_steps: int | None = None
    """It is measured after every so many steps; None: as `measure_when` chooses."""

    @classmethod
    def of(
        cls,
        spec: JobSpec,
        shape: ModelShape,
        lengths: Lengths,
        *,
        total_steps: int,
        counted_parameters: int | None = None,
        held_out_rows: int = 0,
        held_out_tokens: int = 0,
        fast: bool = False,
    ) -> Work:
        """Take it from a spec and the prepared rows' lengths."""
        wanted = spec.lora.target_modules
        longest = lengths.longest
        limit = spec.training.max_length
        return cls(
            shape=shape,
            method=spec.with_method(None).method,
            rank=spec.lora.r,
            target_modules=wanted if isinstance(wanted, str) else tuple(wanted),
            dropout=spec.lora.dropout,
            lengths=lengths,
            effective_batch_size=spec.effective_batch_size,
            total_steps=total_steps,
            counted_parameters=counted_parameters,
            held_out_rows=held_out_rows,
            held_out_tokens=held_out_tokens,
            fast=fast,
            fp8=spec.speed == "fp8",
            eval_steps=spec.training.eval_steps,
            packed_to=(longest if limit == "auto" else min(limit, longest))
            if spec.training.packing
            else None,
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return self.packed_to or self.lengths.longest

    @property
    def adapted(self) -> tuple[Linear, ...]:
        """The linear layers of a block that get an adapter."""
        if self.target_modules == "all-linear":
            return self.shape.linears
        named = (
            (self.target_modules,) if isinstance(self.target_modules, str) else self.target_modules
        )
        found = tuple(one for one in self.shape.linears if one.name in named)
        return found or self.shape.linears  # names of another family: count them all

    @property
    def adapter_parameters(self) -> int:
        """Weights that are trained."""
        if self.counted_parameters is not None:
            return self.counted_parameters
        each = sum(self.rank * (one.inputs + one.outputs) for one in self.adapted)
        return each * self.shape.layers

    @property
    def measurements(self) -> int:
        """How often training measures the held-out loss."""
        if not self.held_out_rows:
            return 0
        tokens, rows = self.lengths.tokens, self.lengths.rows
        sequences = math.ceil(tokens / self.packed_to) if self.packed_to else rows
        epochs = self.total_steps / math.ceil(sequences / self.effective_batch_size)
        return len(
            measured_steps(
                self.total_steps,
                every=self.eval_steps,
                trained_tokens=tokens * epochs,
                held_out_tokens=self.held_out_tokens,
            )
        )

    @property
    def layer_bytes(self) -> float:
        """One layer of the base model on the card."""
        per_weight = _NF4_BYTES if self.method == "qlora" else float(BF16)
        return self.shape.block_parameters * per_weight

    @property
    def weight_bytes(self) -> int:
        """The base model on the card."""
        return self.weight_bytes_on(Box())

    def weight_bytes_on(self, box: Box) -> int:
        """The base model on one card, or the share of it that is there."""
        shape = self.shape
        rest = shape.parameters - shape.layers * shape.block_parameters  # embeddings, head, norms
        layers = float(shape.layers)
        if box.shard_base:
            layers = min(layers, layers / box.ranks + GATHERED_LAYERS)
        return int(layers * self.layer_bytes + rest * BF16)


@dataclass(frozen=True, kw_only=True)
class Box:
    """What is known of the machine; everything may be unknown."""

    gpu_name: str | None = None
    gpu_memory_bytes: int | None = None
    """The whole card's."""
    budget_bytes: int | None = None
    """What a run may use of it; None: the whole card."""
    flops: float | None = None
    """Dense 16-bit rate of the card."""
    context_bytes: int = CONTEXT_BYTES
    learned_memory: dict[str, float] = field(default_factory=dict)
    """Measured over forecast, by what `lesson_key` gives."""
    too_large: tuple[Lesson, ...] = ()
    """Plans of past runs that ran out of this card's memory."""
    learned_time: float = 1.0
    learned_fast_time: float = 1.0
    """The same of runs on the fast path."""
    bf16: bool = True
    """The card computes in bf16 by itself, as the fast path does: those from Ampere on."""
    ranks: int = 1
    """Cards like this one that a run trains on at once; all else here is of one of them."""
    shard_base: bool = False
    """Each of them has a share of the base's layers; the others wait on the host."""

    @property
    def held_bytes(self) -> int:
        """What CUDA and the talk among ranks take of a card, whatever is trained."""
        return self.context_bytes + (RANK_BYTES if self.ranks > 1 else 0)

    @property
    def speedup(self) -> float:
        """How much sooner the ranks are done than one of them would be."""
        return self.ranks * RANKS_EFFICIENCY if self.ranks > 1 else 1.0

    @property
    def limit_bytes(self) -> int | None:
        """The most that a process may take, its context included."""
        whole = None
        if self.gpu_memory_bytes is not None:
            whole = self.gpu_memory_bytes - CARD_RESERVE_BYTES
        known = [one for one in (whole, self.budget_bytes) if one is not None]
        return min(known) if known else None
