"""The forecast's parts against figures worked out by hand: bytes of a state, seconds of a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runner.contract.batch import BatchPlan
from runner.forecast.lengths import Lengths
from runner.forecast.memory import disk, gpu_memory, host_memory, kept_base
from runner.forecast.model_shape import read_shape
from runner.forecast.seconds import measuring_seconds, run_seconds, step_seconds
from runner.forecast.work import GIB, MIB, Box, Work
from runner.spec.read_spec import read_spec

CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 1000,
}
ADAPTER = 4 * 8 * (4 * (64 + 64) + 2 * (64 + 128) + (128 + 64))  # rank 8 on seven layers of a block


def work(text: str = "lora: {r: 8}", lengths: tuple[int, ...] = (100,) * 40) -> Work:
    """Describe a small run."""
    spec = read_spec(f"model: m\ndata: d.jsonl\n{text}\n".encode(), file_name="job.yaml")
    shape = read_shape(CONFIG)
    assert shape is not None
    return Work.of(spec, shape, Lengths.of(lengths), total_steps=10)


def plan(batch: int, passes: int, **more: Any) -> BatchPlan:
    """Cut a batch."""
    return BatchPlan(per_device_batch_size=batch, gradient_accumulation_steps=passes, **more)


def test_an_adapter_s_bytes_are_those_of_its_numbers() -> None:
    """AdamW in fp32: weight, copy for autocast, gradient and two moments."""
    one = work()
    assert one.adapter_parameters == ADAPTER
    parts = gpu_memory(one, plan(8, 2), Box())
    assert parts.adapter == ADAPTER * (4 + 2)
    assert parts.optimizer == ADAPTER * (4 + 4)
    assert parts.gradients == ADAPTER * 4
    assert gpu_memory(one, plan(16, 1), Box()).gradients == ADAPTER * 4 // 4  # a block's alone


def test_a_base_s_bytes_are_those_of_its_numbers() -> None:
    """Blocks in NF4 take a little more than half a byte, all else two."""
    blocks = 4 * (4 * 64 * 64 + 3 * 64 * 128)
    rest = 2 * 1000 * 64 + 4 * 2 * 64 + 64  # head and embeddings apart: nothing says they are one
    assert work("method: lora").weight_bytes == 2 * (blocks + rest)
    assert work().weight_bytes == pytest.approx(0.516 * blocks + 2 * rest, rel=0.01)


def test_a_base_is_kept_beside_what_a_run_needs() -> None:
    """In 4 bits it takes what it takes of the card; in 16 bits none is kept."""
    assert kept_base(work()) == work().weight_bytes > 0
    assert kept_base(work("method: lora")) == 0


def test_host_and_disk_hold_the_state_three_times() -> None:
    """The weights and both moments of a checkpoint; three kept, one being written, the adapter."""
    one = work()
    assert host_memory(one, plan(8, 2), Box()) == 3 * GIB + 12 * ADAPTER
    assert disk(one) == 4 * 12 * ADAPTER + 4 * ADAPTER + 40 * 100 * 8


def test_the_head_counts_where_it_is_the_highest_point() -> None:
    """A tile of 32,768 words for each token, in 16 bits, beside what the blocks keep."""
    few = gpu_memory(work(lengths=(10,) * 40), plan(1, 16), Box())
    assert few.logits >= 10 * 32768 * 2 * 0.9
    assert few.logits < 10 * 32768 * 2 + 10 * 64 * 8


def test_a_wide_head_can_be_the_highest_point() -> None:
    """Where the MLP is narrow, the head's rows and their casts outweigh a block's way back."""
    spec = read_spec(b"model: m\ndata: d.jsonl\nlora: {r: 8}\n", file_name="job.yaml")
    shape = read_shape({**CONFIG, "intermediate_size": 32})
    assert shape is not None
    narrow = Work.of(spec, shape, Lengths.of((100,) * 40), total_steps=10)
    norms, products, inputs = 2 * (4 * 64 + 4), 2 * 8 * 7, 2 * (64 + 64 + 32)
    attention, mlp = 2 * 4 * 64 + 4 * 4, 3 * 2 * 32
    kept = 4 * (norms + products + inputs + attention + mlp)  # of a token, by all blocks
    head = 64 * (4 + 2)
    way_back = 3.7 * 32 + 3.5 * 64
    assert head > way_back
    assert gpu_memory(narrow, plan(8, 2), Box()).activations == 800 * (kept + head)


def test_fragments_and_workspaces_are_counted() -> None:
    """Beside CUDA's own: a fixed part, and a share of the activations."""
    small = gpu_memory(work(), plan(1, 16), Box())
    large = gpu_memory(work(), plan(16, 1), Box())
    assert small.context > Box().context_bytes + 64 * MIB
    grown = large.context - small.context
    activations = large.activations + large.logits - small.activations - small.logits
    assert grown == pytest.approx(0.02 * activations, abs=2)


def test_dropout_keeps_its_masks() -> None:
    """A copy and a byte of each adapter's input."""
    plain = gpu_memory(work(), plan(8, 2), Box()).activations
    assert gpu_memory(work("lora: {r: 8, dropout: 0.1}"), plan(8, 2), Box()).activations > plain


def test_a_limit_leaves_the_driver_its_share() -> None:
    """256 MiB of the whole card, and never more than what the run may use."""
    whole = Box(gpu_memory_bytes=24 * GIB)
    assert whole.limit_bytes == 24 * GIB - 256 * MIB
    assert replace(whole, budget_bytes=8 * GIB).limit_bytes == 8 * GIB


def test_a_small_model_waits_for_python() -> None:
    """A step takes at least what its layers are called for, more where they are called again."""
    box = Box(flops=1e15)
    assert step_seconds(work(), plan(8, 2), box) == pytest.approx(2 * 4 * 0.012)
    again = step_seconds(work(), plan(8, 2, activation_checkpointing=True), box)
    assert again == pytest.approx(2 * 4 * 0.012 * 1.5)
    each = step_seconds(work(), plan(8, 2), box) or 0.0
    assert run_seconds(work(), plan(8, 2), box) == pytest.approx(10 * each + 25)


def test_a_step_s_products_take_the_card_s_rate() -> None:
    """Two operations a weight, forward and backward alone; the head three times."""
    slow = 1e9
    blocks = 4 * (4 * 64 * 64 + 3 * 64 * 128)
    head = 3 * 2 * 1000 * 64
    attention = 2 * 4 * 64 * 100
    each = (2 * (2 * blocks + attention) + head) / (slow * 0.45)
    found = step_seconds(work(), plan(8, 2), Box(flops=slow))
    assert found == pytest.approx(2 * 8 * 100 * each)


def test_what_is_measured_on_held_out_rows_takes_its_time() -> None:
    """Forward alone: eight times in training, twice after it, over every held-out row."""
    slow = Box(flops=1e9)
    blocks = 4 * (4 * 64 * 64 + 3 * 64 * 128)
    forward = 2 * blocks + 2 * 4 * 64 * 100 + 2 * 1000 * 64
    once = 10 * 100 * forward / (1e9 * 0.45)
    held_out = replace(work(), held_out_rows=10, held_out_tokens=1000)
    assert measuring_seconds(held_out, plan(8, 2), slow) == pytest.approx(8 * once)
    steps = 10 * (step_seconds(work(), plan(8, 2), slow) or 0.0)
    assert run_seconds(held_out, plan(8, 2), slow) == pytest.approx(steps + 10 * once + 25)
    seldom = replace(held_out, eval_steps=5)
    assert measuring_seconds(seldom, plan(8, 2), slow) == pytest.approx(2 * once)
    taught = replace(slow, learned_time=1.25)
    assert measuring_seconds(seldom, plan(8, 2), taught) == pytest.approx(2.5 * once)
    assert measuring_seconds(work(), plan(8, 2), slow) == 0.0
    assert measuring_seconds(held_out, plan(8, 2), Box()) is None


def test_a_small_model_waits_for_python_while_it_is_measured() -> None:
    """Two passes of at most eight rows, half of what forward and backward wait for."""
    held_out = replace(work(), held_out_rows=10, held_out_tokens=1000, eval_steps=10)
    found = measuring_seconds(held_out, plan(4, 4), Box(flops=1e15))
    assert found == pytest.approx(2 * 4 * 0.006)
    assert measuring_seconds(held_out, plan(16, 1), Box(flops=1e15)) == pytest.approx(4 * 0.006)


def test_measurements_are_counted_as_training_makes_them() -> None:
    """By the tokens of the whole run: dear ones are fewer; packed rows are counted as sequences."""
    assert work().measurements == 0
    dear = replace(work(), held_out_rows=100, held_out_tokens=9000)
    cost = 9000 / 3 / (4000 * 10 / 3)  # 40 rows are three steps; ten steps train on 13,333 tokens
    assert dear.measurements == int(0.5 / cost) == 2
    packed = replace(dear, packed_to=1000)  # four sequences: each step is an epoch
    assert packed.measurements == int(0.5 / (9000 / 3 / 40_000)) == 6
