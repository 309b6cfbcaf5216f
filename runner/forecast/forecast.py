"""Turns a model's sizes, the rows' real lengths and a batch plan into what a run will need.

GPU memory by part, host memory, disk and time, by arithmetic alone. What each layer keeps for the
backward pass was counted on the real stack (tensor by tensor, `tests/unit/test_forecast.py` counts
again); the few constants that only a card can tell were fitted on one and checked on configurations
that had no part in the fit: `benchmarks/forecast.py`, figures in docs/measurements.md.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict

from runner.contract.batch import BatchPlan, cut_by_tokens, largest_divisor_at_most, worst_pass
from runner.errors import Problem
from runner.forecast.model_shape import Linear, ModelShape
from runner.spec.spec import JobSpec

GIB = 1024**3
MIB = 1024**2

CONTEXT_BYTES = 600 * MIB  # CUDA's own share of a card, before this box has told its own
ROOM_SHARE = 0.94  # of a budget; a plan whose forecast is above it is not chosen
CARD_RESERVE_BYTES = 256 * MIB  # of the whole card: the driver keeps some for itself

_HEAD_TILE = (4096, 32768)  # tokens × words of logits that TRL's fused head holds at once
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # a weight, its block's scale, the scales' own scale
_FP32, _BF16 = 4, 2
_ATTENTION_OUTPUT = "attention's output"
_READS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "first norm's output"),
    **dict.fromkeys(("gate_proj", "up_proj"), "second norm's output"),
    "o_proj": _ATTENTION_OUTPUT,
}
"""Layers of a block that read the same tensor."""

# Fitted on a card.
_WORKSPACE_BYTES = 64 * MIB  # cuBLAS's, and what the allocator's rounding takes
_BACKWARD = {"qlora": (3.7, 3.5), "lora": (8.0, 3.0)}
"""Bytes a token and MLP width, and a token and hidden size: alive while a block goes backward."""
_SLACK = {("qlora", True): 0.14, ("lora", True): 0.05}
"""What fragments waste of the activations, by method and activation checkpointing."""
_SLACK_ELSE = 0.02

# A card waits for Python at least so long, forward and backward: 0.017 on the host of an H100,
# whose processor is slower than a desktop's.
_PASS_SECONDS_PER_LAYER = 0.012
_MID_RANGE_FLOPS = 150e12  # about an RTX 4090's: plans are compared where the card's is unknown
_DRAWS = 48  # micro-batches drawn to tell how plans cut them
_EFFICIENCY = 0.45  # of the card's dense rate, that matrix products of a training step reach
_STARTUP_SECONDS = 25.0  # imports, load, export, evaluation: what a run takes beside its steps
_HOST_BASE_BYTES = 3 * GIB  # Python, torch, CUDA's host side
_CHECKPOINTS_KEPT = 3  # the two newest and the best


class Parts(BaseModel):
    """GPU memory at a run's highest point, in bytes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    context: int
    """CUDA's own, cuBLAS's workspaces and what the allocator cannot use."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, name) for name in type(self).model_fields)


class Forecast(BaseModel):
    """What a run will need at one batch plan."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    batch_plan: BatchPlan
    gpu_memory: Parts
    gpu_memory_bytes: int
    """The parts together, corrected by what this box has learned."""
    longest: int
    """Tokens of the longest row; the worst batch is the longest rows together."""
    host_memory_bytes: int
    disk_bytes: int
    seconds: float | None = None
    """None: neither the card nor an earlier run told how fast this box is."""
    fits: bool | None = None
    """In the memory that the run may use; None: that is not known."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is trained: everything of a run that its batch plan does not say."""

    shape: ModelShape
    method: str
    rank: int
    target_modules: str | tuple[str, ...]
    dropout: float
    lengths: tuple[int, ...]
    """Tokens of each row trained on, longest first."""
    effective_batch_size: int
    total_steps: int
    packed_to: int | None = None
    """Rows are joined into sequences of so many tokens."""

    @classmethod
    def of(
        cls, spec: JobSpec, shape: ModelShape, lengths: Sequence[int], *, total_steps: int
    ) -> Work:
        """Take it from a spec and the prepared rows' lengths."""
        wanted = spec.lora.target_modules
        longest = max(lengths, default=1)
        limit = spec.training.max_length
        return cls(
            shape=shape,
            method=spec.method,
            rank=spec.lora.r,
            target_modules=wanted if isinstance(wanted, str) else tuple(wanted),
            dropout=spec.lora.dropout,
            lengths=tuple(sorted(lengths, reverse=True)) or (1,),
            effective_batch_size=spec.effective_batch_size,
            total_steps=total_steps,
            packed_to=(longest if limit == "auto" else min(limit, max(longest, 1)))
            if spec.training.packing
            else None,
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return self.packed_to or self.lengths[0]

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
        each = sum(self.rank * (one.inputs + one.outputs) for one in self.adapted)
        return each * self.shape.layers

    @property
    def weight_bytes(self) -> int:
        """The base model on the card."""
        shape = self.shape
        per_weight = _NF4_BYTES if self.method == "qlora" else float(_BF16)
        blocks = shape.layers * shape.block_parameters
        rest = shape.parameters - blocks  # embeddings, head, norms, experts
        return int(blocks * per_weight + rest * _BF16)


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
    learned_time: float = 1.0

    @property
    def limit_bytes(self) -> int | None:
        """The most that a process may take, its context included."""
        whole = None
        if self.gpu_memory_bytes is not None:
            whole = self.gpu_memory_bytes - CARD_RESERVE_BYTES
        known = [one for one in (whole, self.budget_bytes) if one is not None]
        return min(known) if known else None


def lesson_key(method: str, plan: BatchPlan) -> str:
    """Name what a measured peak teaches about: other kinds of runs err in other ways."""
    return f"{method}, checkpointing {'on' if plan.activation_checkpointing else 'off'}"


def forecast(work: Work, plan: BatchPlan, box: Box) -> Forecast:
    """Say what a run needs at one batch plan."""
    parts = _gpu_memory(work, plan, box)
    factor = box.learned_memory.get(lesson_key(work.method, plan), 1.0)
    steady = parts.weights + parts.context
    total = int(steady + (parts.total - steady) * factor)
    limit = box.limit_bytes
    return Forecast(
        batch_plan=plan,
        gpu_memory=parts,
        gpu_memory_bytes=total,
        longest=work.longest,
        host_memory_bytes=_host_memory(work, plan),
        disk_bytes=_disk(work),
        seconds=_seconds(work, plan, box),
        fits=None if limit is None else total <= limit,
    )


def cap_problem(spec: JobSpec, shape: ModelShape | None) -> Problem | None:
    """Say that a cap on GPU memory is below what the model's weights take; None where it is not."""
    cap_gib = spec.limits.gpu_memory_gib
    if cap_gib is None or shape is None:
        return None
    work = Work.of(spec, shape, [1], total_steps=1)
    parts = _gpu_memory(work, smallest_plan(work), Box())
    if cap_gib * GIB >= parts.weights + parts.context:
        return None
    needed = math.ceil(2 * parts.total / GIB) / 2
    others = "" if spec.method == "qlora" else ", or method: qlora, or a smaller model"
    return Problem(
        field="limits.gpu_memory_gib",
        found=f"{cap_gib:g}",
        message=f"the cap is {cap_gib:g} GiB, but the model's weights alone take "
        f"{parts.weights / GIB:.1f} GiB ({spec.method}) and CUDA {parts.context / GIB:.1f} GiB",
        hint=f"give at least {needed:g}" + (others or ", or choose a smaller model"),
    )


def smallest_plan(work: Work) -> BatchPlan:
    """Give the plan below which there is none."""
    return BatchPlan(
        per_device_batch_size=1,
        gradient_accumulation_steps=work.effective_batch_size,
        activation_checkpointing=True,
        activation_offloading=True,
    )


def _gpu_memory(work: Work, plan: BatchPlan, box: Box) -> Parts:
    shape = work.shape
    tokens = _worst_tokens(work, plan)
    adapter = work.adapter_parameters
    block = tokens * _kept_per_token(work)
    if plan.activation_checkpointing:
        inputs = tokens * shape.hidden * _BF16 * shape.layers
        kept = 0.1 * inputs if plan.activation_offloading else 1.0 * inputs
        in_blocks = kept + block + _going_back(work, tokens)
    else:
        kept = block * shape.layers
        in_blocks = kept + _going_back(work, tokens)
    # The last norm's input and output; the chosen rows, their gradient and its cast; the logits.
    head = tokens * shape.hidden * (_FP32 + _BF16)
    tile = min(tokens, _HEAD_TILE[0]) * _HEAD_TILE[1] * _BF16
    logits = tile + tokens * shape.hidden * (_BF16 + _FP32 + _BF16)
    activations = max(in_blocks, kept + head)
    # The head's logits are gone when the blocks go backward: they count where they tower above.
    towering = max(0.0, kept + head + logits - activations)
    slack = _SLACK.get((work.method, plan.activation_checkpointing), _SLACK_ELSE)
    # With one pass a step, the peak comes when the first block back has its gradients, no other.
    blocks_with_gradients = shape.layers if plan.gradient_accumulation_steps > 1 else 1
    return Parts(
        weights=work.weight_bytes,
        adapter=adapter * (_FP32 + _BF16),  # autocast keeps a copy in 16 bits
        gradients=adapter * _FP32 * blocks_with_gradients // shape.layers,
        optimizer=adapter * 2 * _FP32,
        activations=int(activations),
        logits=int(towering),
        context=int(box.context_bytes + _WORKSPACE_BYTES + slack * (activations + towering)),
    )


def _going_back(work: Work, tokens: int) -> float:
    """Count the bytes beside what was kept while one block goes backward."""
    shape = work.shape
    wide, narrow = _BACKWARD[work.method]
    gradients = tokens * (wide * shape.intermediate + narrow * shape.hidden)
    if work.method != "qlora":
        return gradients
    # Few tokens: the weights of its largest layer, unpacked, weigh more.
    unpacked = _BF16 * max(one.parameters for one in shape.linears)
    return max(gradients, unpacked + tokens * _BF16 * (shape.intermediate + shape.hidden))


def _worst_tokens(work: Work, plan: BatchPlan) -> int:
    """Count the tokens of the worst pass, padding included."""
    if work.packed_to:
        return plan.per_device_batch_size * work.packed_to
    rows = worst_pass(work.lengths, plan)
    return len(rows) * work.lengths[rows[0]]


def _kept_per_token(work: Work, *, on_card: bool = True) -> float:
    """Count the bytes that one block keeps of one token for the backward pass.

    The norms keep their input in fp32; each adapter a narrow product and its layer's input;
    attention its queries, keys, values, outputs and sums; the MLP what its non-linearity and
    product need. PEFT casts the input for each adapter anew, except over NF4 on a card: there
    adapters that read one tensor share it.
    """
    shape = work.shape
    norms = 2 * (_FP32 * shape.hidden + _FP32)
    per_adapter = _BF16 * work.rank * len(work.adapted)
    if work.method == "qlora" and on_card:
        inputs = {_READS.get(one.name, one.name): one.inputs for one in work.adapted}
        inputs.pop(_ATTENTION_OUTPUT, None)  # counted with attention
        copies = _BF16 * sum(inputs.values())
    else:
        copies = _BF16 * sum(one.inputs for one in work.adapted)
    if work.dropout:
        copies += sum(one.inputs * (_BF16 + 1) for one in work.adapted)
    attention = _BF16 * (2 * shape.attention + 2 * shape.kv) + _FP32 * shape.heads
    gated = any(one.name == "gate_proj" for one in shape.linears) or shape.expert_parameters
    mlp = (3 if gated else 1) * _BF16 * shape.intermediate
    return float(norms + per_adapter + copies + attention + mlp)


def _host_memory(work: Work, plan: BatchPlan) -> int:
    offloaded = 0
    if plan.activation_offloading:
        tokens = _worst_tokens(work, plan)
        offloaded = tokens * work.shape.hidden * _BF16 * work.shape.layers
    return int(_HOST_BASE_BYTES + 3 * _FP32 * work.adapter_parameters + offloaded)


def _disk(work: Work) -> int:
    checkpoint = 3 * _FP32 * work.adapter_parameters
    rows = sum(work.lengths) * 2 * 4  # two columns of 32-bit numbers
    return int(checkpoint * (_CHECKPOINTS_KEPT + 1) + _FP32 * work.adapter_parameters + rows)


def _seconds(work: Work, plan: BatchPlan, box: Box) -> float | None:
    each = step_seconds(work, plan, box)
    return None if each is None else each * work.total_steps + _STARTUP_SECONDS


def step_seconds(work: Work, plan: BatchPlan, box: Box) -> float | None:
    """Say how long one optimizer step takes; None where the card's speed is not known."""
    if box.flops is None:
        return None
    shape = work.shape
    # Frozen weights have no gradient: a backward pass costs one forward, not two.
    forwards = 3 if plan.activation_checkpointing else 2
    per_token = 2 * (shape.layers * shape.block_parameters)
    attention = 2 * shape.layers * shape.attention * _mean_length(work)
    head = 3 * 2 * shape.vocabulary * shape.hidden
    each_token = (forwards * (per_token + attention) + head) / (box.flops * _EFFICIENCY)
    waiting = shape.layers * _PASS_SECONDS_PER_LAYER * forwards / 2
    drawn = _drawn_passes(work, plan)
    one = sum(max(tokens * each_token, waiting) for passes in drawn for tokens in passes)
    return plan.gradient_accumulation_steps * one / len(drawn) * box.learned_time


def _mean_length(work: Work) -> float:
    return sum(work.lengths) / len(work.lengths)


def _drawn_passes(work: Work, plan: BatchPlan) -> list[list[int]]:
    """Draw micro-batches and cut them as training does: the tokens of each pass of each."""
    batch = plan.per_device_batch_size
    if work.packed_to:
        return [[batch * work.packed_to]]
    dice = random.Random(0)  # noqa: S311  (the same plan for the same rows)
    found = []
    for _ in range(_DRAWS):
        lengths = dice.choices(work.lengths, k=batch)
        passes = cut_by_tokens(lengths, plan.tokens_per_pass)
        found.append([len(rows) * max(lengths[row] for row in rows) for rows in passes])
    return found


def candidates(
    work: Work, *, batch_size: int | None = None, checkpointing: bool | None = None
) -> list[BatchPlan]:
    """List every plan that cuts the effective batch, the largest first.

    Args:
        work: what is trained.
        batch_size: the most examples per pass that the spec allows; None: any.
        checkpointing: what the spec says of it; None: either.
    """
    effective = work.effective_batch_size
    limit = min(effective, batch_size or effective)
    sizes: list[int] = []
    while limit >= 1:
        sizes.append(largest_divisor_at_most(effective, limit))
        limit = sizes[-1] // 2
    switches = (False, True) if checkpointing is None else (checkpointing,)
    plans = [
        BatchPlan(
            per_device_batch_size=size,
            gradient_accumulation_steps=effective // size,
            activation_checkpointing=on,
        )
        for on in switches
        for size in sizes
    ]
    last = plans[-1]
    if checkpointing is not False:
        plans.append(last.model_copy(update={"activation_offloading": True}))
    return plans


def choose(
    work: Work, box: Box, *, batch_size: int | None = None, checkpointing: bool | None = None
) -> Forecast:
    """Choose the plan to start with: the quickest of those that surely fit, else the smallest."""
    plain = candidates(work, batch_size=batch_size, checkpointing=checkpointing)
    limit = box.limit_bytes
    if limit is None:
        return forecast(work, plain[0], box)
    known = [forecast(work, plan, box) for one in plain for plan in (one, *_limited(work, one))]
    fitting = [one for one in known if one.gpu_memory_bytes <= ROOM_SHARE * limit]
    if not fitting:
        return min(known, key=lambda one: one.gpu_memory_bytes)
    speed = box if box.flops else replace(box, flops=_MID_RANGE_FLOPS)
    return min(
        fitting,
        key=lambda one: (step_seconds(work, one.batch_plan, speed) or 0.0, one.gpu_memory_bytes),
    )


def _limited(work: Work, plan: BatchPlan) -> list[BatchPlan]:
    """Give the same plan with limits of tokens at once, from the longest row up."""
    found = []
    limit = work.longest
    while not work.packed_to and limit < plan.per_device_batch_size * work.longest:
        found.append(plan.model_copy(update={"tokens_per_pass": limit}))
        limit *= 2
    return found


def alternatives(work: Work, box: Box) -> tuple[Forecast, ...]:
    """Forecast the plans that a person may want to compare, without and with checkpointing."""
    return tuple(forecast(work, plan, box) for plan in candidates(work))
