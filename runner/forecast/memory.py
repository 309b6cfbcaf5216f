"""Memory that a run needs: on the card by part, on the host and on the disk.

By arithmetic alone. What each layer keeps for the backward pass was counted on the real stack,
tensor by tensor (`tests/unit/test_forecast.py` counts again). What only a card can tell was fitted
on one and checked on configurations that had no part in the fit: `benchmarks/forecast.py`; its
figures stand in docs/measurements.md ("the forecast against a card").
"""

from __future__ import annotations

from functools import lru_cache

from pydantic import BaseModel, ConfigDict

from runner.contract.batch import BatchPlan
from runner.forecast.lengths import Lengths
from runner.forecast.passes import (
    HOLES,
    activation_room,
    chunk_for,
    long_bytes,
    peak_bytes,
    sizes_of,
    steady,
    summed_bytes,
)
from runner.forecast.work import BF16, FP32, GIB, MIB, Box, Work

_HEAD_TILE = (4096, 32768)
"""Tokens × words of logits that TRL's fused head holds at once: its own tile sizes."""
_ATTENTION_OUTPUT = "attention's output"
_READS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "first norm's output"),
    **dict.fromkeys(("gate_proj", "up_proj"), "second norm's output"),
    "o_proj": _ATTENTION_OUTPUT,
}
"""Layers of a block that read the same tensor. Adapters over NF4 on a card share its one copy; that
was found when the first forecasts with NF4 were up to 20% too high."""

_WORKSPACE_BYTES = 64 * MIB
"""cuBLAS's workspaces, and what the allocator's rounding takes. Fitted on a card."""
_BACKWARD = {"qlora": (3.7, 3.5), "lora": (8.0, 3.0)}
"""Bytes a token and MLP width, and a token and hidden size: alive while a block goes backward.
Fitted to rows of the table that are marked `fit`."""
_SLACK = {("qlora", True): 0.14, ("lora", True): 0.05}
"""What fragments waste of the activations, by method and activation checkpointing. Fitted: with
checkpointing, blocks of memory come and go layer by layer."""
_SLACK_ELSE = 0.02
"""The same without checkpointing: what is kept stays where it is, and little is wasted."""
_OFFLOADED_LEFT = 0.1
"""Of what checkpointing keeps, the share that is on the card while the rest is offloaded to the
host: the layers on their way. An estimate: no row of the table offloads."""
_HOST_BASE_BYTES = 3 * GIB
"""Host memory of the train stage before its rows: Python, torch, CUDA's host side. An estimate with
room to spare: the imports alone make the process 1.4 GiB large (550 MiB of it resident)."""
_CHECKPOINTS_KEPT = 3
"""On the disk at once: the two newest and the best; a fourth while it is being written."""


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


def gpu_memory(work: Work, plan: BatchPlan, box: Box) -> Parts:
    """Count what a run takes of the card at its highest point."""
    if plan.layers_kept is not None:
        return _on_fast_path(work, plan, box)
    shape = work.shape
    tokens = _worst_tokens(work, plan)
    adapter = work.adapter_parameters
    block = tokens * _kept_per_token(work)
    if plan.activation_checkpointing:
        inputs = tokens * shape.hidden * BF16 * shape.layers
        kept = _OFFLOADED_LEFT * inputs if plan.activation_offloading else 1.0 * inputs
        in_blocks = kept + block + _going_back(work, tokens)
    else:
        kept = block * shape.layers
        in_blocks = kept + _going_back(work, tokens)
    # The last norm's input and output; the chosen rows, their gradient and its cast; the logits.
    head = tokens * shape.hidden * (FP32 + BF16)
    tile = min(tokens, _HEAD_TILE[0]) * _HEAD_TILE[1] * BF16
    logits = tile + tokens * shape.hidden * (BF16 + FP32 + BF16)
    activations = max(in_blocks, kept + head)
    # The head's logits are gone when the blocks go backward: they count where they tower above.
    towering = max(0.0, kept + head + logits - activations)
    slack = _SLACK.get((work.method, plan.activation_checkpointing), _SLACK_ELSE)
    # With one pass a step, the peak comes when the first block back has its gradients, no other.
    blocks_with_gradients = shape.layers if plan.gradient_accumulation_steps > 1 else 1
    return Parts(
        weights=work.weight_bytes_on(box),
        adapter=adapter * (FP32 + BF16),  # autocast keeps a copy in 16 bits
        gradients=adapter * FP32 * blocks_with_gradients // shape.layers + summed_bytes(work, box),
        optimizer=adapter * 2 * FP32,
        activations=int(activations),
        logits=int(towering),
        context=int(box.held_bytes + _WORKSPACE_BYTES + slack * (activations + towering)),
    )


def _on_fast_path(work: Work, plan: BatchPlan, box: Box) -> Parts:
    """Count what the passes of the fast path take; holes only where there is room for them."""
    sizes, there = sizes_of(work), steady(work, box)
    on_host = plan.activation_offloading
    tokens = max(0 if on_host else work.longest, plan.tokens_per_pass or 0)
    kept = min(sizes.layers, plan.layers_kept or 0)
    moved = plan.embedding_on_host
    chunk = chunk_for(sizes, activation_room(work, box, embedding_on_host=moved))
    activations = 0 if _all_through_host(work, plan) else peak_bytes(sizes, tokens, kept, chunk)
    if on_host:
        activations = max(activations, long_bytes(sizes, work.longest, chunk))
    unpacked = plan.layers_unpacked * sizes.unpacked
    weights = there.weights + unpacked - (sizes.embedding if moved else 0)
    needed = there.total - there.weights + weights + activations
    holes = int((HOLES - 1) * needed)
    if box.limit_bytes is not None:
        holes = max(0, min(holes, box.limit_bytes - box.held_bytes - needed))
    return Parts(
        weights=weights,
        adapter=there.adapter,
        gradients=there.gradients,
        optimizer=there.optimizer,
        activations=activations,
        logits=0,
        context=box.held_bytes + holes,
    )


def _all_through_host(work: Work, plan: BatchPlan) -> bool:
    """Whether the host keeps for every row, so that no pass has the room that shorter ones would.

    Lengths that were rounded up tell too little, as do packed rows; held-out rows have that room.
    """
    if not plan.activation_offloading or work.packed_to or work.held_out_rows:
        return False
    shortest = work.lengths.steps[-1][0]
    return not work.lengths.rounded and shortest > (plan.tokens_per_pass or 0)


def _going_back(work: Work, tokens: int) -> float:
    """Count the bytes beside what was kept while one block goes backward."""
    shape = work.shape
    wide, narrow = _BACKWARD[work.method]
    gradients = tokens * (wide * shape.intermediate + narrow * shape.hidden)
    if work.method != "qlora":
        return gradients
    # Few tokens: the weights of its largest layer, unpacked, weigh more.
    unpacked = BF16 * max(one.parameters for one in shape.linears)
    return max(gradients, unpacked + tokens * BF16 * (shape.intermediate + shape.hidden))


def _worst_tokens(work: Work, plan: BatchPlan) -> int:
    """Count the tokens of the worst pass, padding included."""
    if work.packed_to:
        return plan.per_device_batch_size * work.packed_to
    return worst_tokens(work.lengths, plan.per_device_batch_size, plan.tokens_per_pass)


@lru_cache(maxsize=256)
def worst_tokens(lengths: Lengths, most: int, limit: int | None) -> int:
    """Count the tokens of the largest pass that can come: what `batch.worst_pass` finds.

    Of at most ``most`` rows and, where there is more than one, at most ``limit`` tokens.
    """
    if limit is None:
        return min(most, lengths.rows) * lengths.longest
    worst, left = 0, lengths.rows
    for tokens, rows in lengths.steps:
        if most * tokens <= worst:
            break  # shorter rows cannot fill more
        if limit - limit % tokens > worst or tokens > limit:
            worst = max(worst, min(most, max(1, limit // tokens), left) * tokens)
        left -= rows
    return worst


def _kept_per_token(work: Work, *, on_card: bool = True) -> float:
    """Count the bytes that one block keeps of one token for the backward pass.

    The norms keep their input in fp32; each adapter a narrow product and its layer's input;
    attention its queries, keys, values, outputs and sums; the MLP what its non-linearity and
    product need. PEFT casts the input for each adapter anew, except over NF4 on a card: there
    adapters that read one tensor share it.
    """
    shape = work.shape
    norms = 2 * (FP32 * shape.hidden + FP32)
    per_adapter = BF16 * work.rank * len(work.adapted)
    if work.method == "qlora" and on_card:
        inputs = {_READS.get(one.name, one.name): one.inputs for one in work.adapted}
        inputs.pop(_ATTENTION_OUTPUT, None)  # counted with attention
        copies = BF16 * sum(inputs.values())
    else:
        copies = BF16 * sum(one.inputs for one in work.adapted)
    if work.dropout:
        copies += sum(one.inputs * (BF16 + 1) for one in work.adapted)
    attention = BF16 * (2 * shape.attention + 2 * shape.kv) + FP32 * shape.heads
    gated = any(one.name == "gate_proj" for one in shape.linears) or shape.expert_parameters
    mlp = (3 if gated else 1) * BF16 * shape.intermediate
    return float(norms + per_adapter + copies + attention + mlp)


def host_memory(work: Work, plan: BatchPlan, box: Box) -> int:
    """Count the bytes that the train stage takes of the machine's own memory, with all its ranks.

    Layers of a shared base that are not a card's own wait there.
    """
    offloaded = 0
    if plan.activation_offloading and plan.layers_kept is not None:
        each = work.shape.hidden + work.shape.attention  # a layer's input and attention's output
        offloaded = work.longest * each * BF16 * work.shape.layers
    elif plan.activation_offloading:
        tokens = _worst_tokens(work, plan)
        offloaded = tokens * work.shape.hidden * BF16 * work.shape.layers
    if plan.embedding_on_host:
        offloaded += sizes_of(work).embedding
    if box.shard_base:
        offloaded += int((1 - 1 / box.ranks) * work.shape.layers * work.layer_bytes)
    one = _HOST_BASE_BYTES + 3 * FP32 * work.adapter_parameters + offloaded
    return int(one * box.ranks)


def kept_base(work: Work) -> int:
    """Count what the base takes in 4 bits, which is kept for the next run where there is room.

    No run needs it: it goes first when the disk is short, and so it is not in `disk`.
    """
    return work.weight_bytes if work.method == "qlora" else 0


def disk(work: Work) -> int:
    """Count the bytes that a run takes of the disk: checkpoints, adapter and tokenised rows."""
    checkpoint = 3 * FP32 * work.adapter_parameters
    rows = work.lengths.tokens * 2 * 4  # two columns of 32-bit numbers
    return int(checkpoint * (_CHECKPOINTS_KEPT + 1) + FP32 * work.adapter_parameters + rows)
