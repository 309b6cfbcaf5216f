"""The plan of two numbers, tokens of a pass and layers kept: by arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from kernel_models import make

from runner.contract.batch import BatchPlan, describe_change
from runner.forecast.passes import (
    Passes,
    Sizes,
    choose_passes,
    choose_place,
    count_passes,
    fits,
    goes_long,
    keep_unpacked,
    layers_kept,
    long_bytes,
    measured_at_once,
    pass_seconds,
    passes_within,
    peak_bytes,
)
from runner.training.fit.fast_path import FastPath
from runner.training.fit.memory import Meter
from runner.training.kernels.fast_model import FastModel, measure
from runner.training.kernels.recognise import recognise
from runner.training.kernels.rows import divide

GIB = 2**30
EIGHT_B = Sizes(  # Llama 3's 8B in bf16, by hand
    layers=32,
    lean=8192,
    full=94_336,
    back=2 * (14336 + 4 * 4096),
    head=3 * 8192,
    logits=2 * (128256 + 3 * 4096),
    weights=6_979_321_856,
    unpacked=2 * 6_979_321_856 // 32,
    long=2 * (6 * 4096 + 3 * 4096 + 2 * 6144) + 4 * 32 * (128 + 32),
    tile=2 * (3 * 14336 + 6 * 4096),
)


@pytest.mark.filterwarnings("ignore")  # the libraries' own, about each other
def test_sizes_are_counted() -> None:
    """A tiny Llama's by hand: hidden 64, MLP 128, 4 heads of 16, 2 of keys and values, fp32."""
    parts = recognise(make("llama"), dtype=torch.float32, longest=64)
    found = measure(parts.layers, 300, 4)
    assert (found.layers, found.lean) == (3, 4 * 64)
    assert found.full == 4 * (2 * 64 + 128 + 64 + 256) + 4 * 4
    assert found.weights == 3 * (64 * 128 + 64 * 64 + 64 * 256 + 128 * 64)


@pytest.mark.parametrize(
    ("budget", "tokens", "kept"),
    [
        (2.0, (2048, 5000), (0, 10)),  # little room: passes of some size that recompute
        (7.5, (2048, 3000), (32, 32)),  # more: small passes that keep everything
        (15.0, (4096, 6000), (32, 32)),
        (None, (10_000, 16_384), (32, 32)),
    ],
)
def test_what_is_chosen(
    budget: float | None, tokens: tuple[int, int], kept: tuple[int, int]
) -> None:
    """For 8B and rows of at most 2,048 tokens; what is chosen fits by its own count."""
    room = None if budget is None else int(budget * GIB)
    found = choose_passes(EIGHT_B, budget_bytes=room, longest=2048, batch_tokens=30_000)
    layers = layers_kept(EIGHT_B, found, found.most_tokens)
    assert tokens[0] <= found.most_tokens <= tokens[1]
    assert kept[0] <= layers <= kept[1]
    if room is not None:
        assert peak_bytes(EIGHT_B, found.most_tokens, layers, found.chunk) <= room


def test_no_memory_is_taken_for_nothing() -> None:
    """With all the room there is, a pass takes less than 45 GiB: more would gain under 1%."""
    found = choose_passes(EIGHT_B, budget_bytes=130 * GIB, longest=2048, batch_tokens=10**6)
    assert peak_bytes(EIGHT_B, found.most_tokens, 32, found.chunk) < 45 * GIB


def test_less_memory_never_keeps_more() -> None:
    """A pass of the same size keeps fewer layers, or as many, where there is less room."""
    kept = []
    for tenths in range(5, 200, 5):
        room = tenths * GIB // 10
        passes = Passes(most_tokens=2048, layers_kept=None, budget_bytes=room, chunk=512)
        kept.append(layers_kept(EIGHT_B, passes, 2048))
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (0, 32)


def test_all_layers_are_kept_that_there_is_room_for() -> None:
    """With just the room that so many take, so many are kept, down to a single one."""
    for kept in range(1, 33):
        room = peak_bytes(EIGHT_B, 2048, kept, 512)
        passes = Passes(most_tokens=2048, layers_kept=None, budget_bytes=room, chunk=512)
        assert layers_kept(EIGHT_B, passes, 2048) == kept
    anywhere = Passes(most_tokens=2048, layers_kept=99, budget_bytes=None, chunk=512)
    assert layers_kept(EIGHT_B, anywhere, 2048) == 32  # never more than it has


@pytest.mark.parametrize(
    ("room", "batch", "tokens"),
    [
        (None, 3000, 3000),  # a pass need not hold more than a batch has
        (1, 30_000, 512),  # nothing fits by this count: the smallest, and the card decides
    ],
)
def test_passes_at_either_end(room: int | None, batch: int, tokens: int) -> None:
    """For rows of at most 512 tokens."""
    found = choose_passes(EIGHT_B, budget_bytes=room, longest=512, batch_tokens=batch)
    assert 0.9 * tokens <= found.most_tokens <= tokens


def test_time_of_a_pass_beside_what_was_measured() -> None:
    """8B on an H200: all weights unpacked gave 2.8 and 3.7% in passes of 9,770 tokens.

    A smaller model's kernels are done sooner, and what a pass costs by itself is more of its time.
    """
    small = replace(EIGHT_B, weights=EIGHT_B.weights // 8)

    def seconds(sizes: Sizes, tokens: int, unpacked: int = 0) -> float:
        return pass_seconds(sizes, tokens, 32, each_token=1.0, unpacked=unpacked)

    gain = 1 - seconds(EIGHT_B, 9770, 32) / seconds(EIGHT_B, 9770)
    assert 0.02 < gain < 0.04
    each = [seconds(one, 2048) / 2048 for one in (EIGHT_B, small)]
    assert each[1] > 1.2 * each[0]
    quick = pass_seconds(EIGHT_B, 64, 32, each_token=1e-9)
    assert 0.054 < quick < 0.066  # of 64 tokens: all of it Python


@pytest.mark.parametrize(
    ("room", "most", "unpacked"),
    [
        (2, None, 0),
        (15, None, 0),
        (45, None, range(16, 32)),
        (130, None, 32),
        (130, 20, 20),
        (130, 0, 0),
    ],
)
def test_weights_stay_unpacked_in_the_room_that_passes_leave(
    room: int, most: int | None, unpacked: int | range
) -> None:
    """Passes come first; what both take is within the room, and a longer row has what is left."""
    chosen = choose_passes(EIGHT_B, budget_bytes=room * GIB, longest=2048, batch_tokens=30_000)
    found = keep_unpacked(EIGHT_B, chosen, most=most)
    assert found.most_tokens == chosen.most_tokens
    assert found.layers_unpacked in (unpacked if isinstance(unpacked, range) else [unpacked])
    kept = layers_kept(EIGHT_B, found, found.most_tokens)
    assert kept == layers_kept(EIGHT_B, chosen, found.most_tokens)
    of_weights = found.layers_unpacked * EIGHT_B.unpacked
    of_pass = peak_bytes(EIGHT_B, found.most_tokens, kept, found.chunk)
    assert of_pass + of_weights <= room * GIB
    assert found.budget_bytes == room * GIB - of_weights
    assert of_weights <= 16 * GIB


def test_weights_stay_packed_where_nothing_is_gained() -> None:
    """Without a card, for rows that the host keeps for, and where weights are not in 4 bits."""
    known = {"most_tokens": 2048, "layers_kept": 32, "chunk": 512}
    nowhere = Passes(**known, budget_bytes=None)
    through_host = Passes(**known, budget_bytes=130 * GIB, on_host=True)
    anywhere = Passes(**known, budget_bytes=130 * GIB)
    assert keep_unpacked(EIGHT_B, nowhere) == nowhere
    assert keep_unpacked(EIGHT_B, through_host) == through_host
    without_words = replace(anywhere, embedding_on_host=True)  # it had not even room for these
    assert keep_unpacked(EIGHT_B, without_words) == without_words
    assert keep_unpacked(replace(EIGHT_B, unpacked=0), anywhere) == anywhere
    larger = replace(EIGHT_B, unpacked=4 * EIGHT_B.unpacked)  # a whole card for a few percent
    assert keep_unpacked(larger, anywhere).layers_unpacked == 0


@pytest.mark.parametrize(
    ("lengths", "most"), [([300] * 30, 2048), ([65_536], 16_384), ([40_000, 9000, 7000], 16_384)]
)
def test_passes_are_counted_as_training_makes_them(lengths: list[int], most: int) -> None:
    """A row that is longer than a pass is one of its own, not cut."""
    found = count_passes(sum(lengths), most, max(lengths))
    assert found == len(divide(lengths, most))


@pytest.mark.parametrize(("room", "kept"), [(3, 0), (15, 8)])
def test_what_is_measured_takes_no_more_than_training(room: int, kept: int) -> None:
    """One layer's products and a chunk of logits, within the highest point of a training pass."""
    passes = Passes(most_tokens=2048, layers_kept=kept, budget_bytes=room * GIB, chunk=1024)
    tokens = measured_at_once(EIGHT_B, passes)
    assert 2048 < tokens < 16_384
    needed = tokens * (EIGHT_B.full + EIGHT_B.back) + 1024 * EIGHT_B.logits
    highest = peak_bytes(EIGHT_B, 2048, kept, 1024)
    assert 0.99 * highest < needed <= highest
    shallow = replace(EIGHT_B, layers=1)  # its logits are most of a pass
    assert measured_at_once(shallow, passes) == 2048  # what training takes is there in any case


@pytest.mark.filterwarnings("ignore")
def test_the_ladder() -> None:
    """Passes halve down to the longest row, fewer layers are kept, then the host keeps."""
    model = FastModel(
        parts=recognise(make("llama"), dtype=torch.float32, longest=64),
        passes=Passes(most_tokens=1, layers_kept=None, budget_bytes=None, chunk=1),
    )
    meter = Meter(on_gpu=False)
    fast = FastPath(model=model, longest=64, batch_tokens=300, budget_bytes=None, meter=meter)
    plan = BatchPlan(per_device_batch_size=8, gradient_accumulation_steps=1)
    fast.take(plan)
    tops, seen, told = [fast.model.passes.most_tokens], [], []
    for _ in range(30):
        less = fast.smaller(plan, may_offload=True)
        if less is None:
            break
        assert less.effective_batch_size == 8
        told.append(describe_change(plan, less))
        plan = less
        fast.take(plan)
        tops.append(fast.model.passes.most_tokens)
        seen.append(fast.kept)
    assert less is None  # it has an end
    assert tops == sorted(tops, reverse=True)
    assert tops[-5:] == [64, 64, 64, 64, 32]
    assert seen[-5:] == [3, 1, 0, 0, 0]
    assert fast.model.passes.on_host
    assert fast.model.passes.embedding_on_host
    assert told[-4:-2] == [f"fewer layers kept: {n}, same effective batch 8" for n in (1, 0)]
    moved = "at most 64 tokens at once, 0 layers kept, word table in host memory"
    assert told[-2] == f"8 × 1, {moved}, same effective batch 8"


@pytest.mark.filterwarnings("ignore")
def test_words_that_go_in_and_come_out_by_one_table_stay_on_the_card() -> None:
    """A tied table cannot move: the ladder has no such step, and a plan that says it is taken."""
    parts = recognise(make("gemma"), dtype=torch.float32, longest=64)
    assert parts.movable_words == 0
    nowhere = Passes(most_tokens=1, layers_kept=None, budget_bytes=None, chunk=1)
    model = FastModel(parts=parts, passes=nowhere)
    meter = Meter(on_gpu=False)
    fast = FastPath(model=model, longest=64, batch_tokens=300, budget_bytes=None, meter=meter)
    plan = BatchPlan(
        per_device_batch_size=8,
        gradient_accumulation_steps=1,
        tokens_per_pass=64,
        layers_kept=0,
        embedding_on_host=True,
    )
    fast.take(plan)
    assert not fast.model.passes.embedding_on_host
    assert not fast.in_force(plan).embedding_on_host
    less = fast.smaller(plan, may_offload=True)
    assert less is not None
    assert less.activation_offloading


@pytest.mark.parametrize(
    ("room", "longest", "moves"),
    [
        (0.4, 2048, True),  # the longest row fits in no other way
        (2.0, 2048, False),  # its room would gain larger passes, and measured it gains nothing
        (16.0, 2048, False),
        (None, 2048, False),
        (8.0, 65_536, False),  # with it, too, the row needs the host to keep for its layers
    ],
)
def test_the_table_of_words_moves_where_nothing_fits_otherwise(
    room: float | None, longest: int, *, moves: bool
) -> None:
    """What is chosen then fits in the room that it has with it."""
    table = 2 * 128256 * 4096
    sizes = replace(EIGHT_B, embedding=table)
    budget = None if room is None else int(room * GIB)
    known: dict[str, Any] = {"budget_bytes": budget, "longest": longest, "batch_tokens": 80_000}
    found = choose_place(sizes, **known)
    assert found.embedding_on_host is moves
    assert found.budget_bytes == (budget + table if moves and budget else budget)
    here = choose_place(EIGHT_B, **known)
    assert not here.embedding_on_host
    if moves:
        assert fits(sizes, found)
        assert not fits(sizes, here)
    else:
        assert found == here
    assert keep_unpacked(sizes, replace(found, embedding_on_host=True)).layers_unpacked == 0


def test_a_long_row_goes_alone_and_the_host_keeps_for_it() -> None:
    """Under 15 GiB: 65,536 tokens do not fit on the card, beside rows that go as ever."""
    room = 8 * GIB
    known = {"budget_bytes": room, "longest": 65_536, "batch_tokens": 80_000}
    assert peak_bytes(EIGHT_B, 65_536, 0, 1024) > room
    found = passes_within(EIGHT_B, **known, most_tokens=16_384, most_kept=32, on_host=True)
    assert found.most_tokens < 16_384
    assert peak_bytes(EIGHT_B, found.most_tokens, 0, found.chunk) <= room
    assert goes_long(EIGHT_B, found, 65_536)
    assert not goes_long(EIGHT_B, found, found.most_tokens)
    assert long_bytes(EIGHT_B, 65_536, found.chunk) <= room
    assert divide([500, 65_536, 700, 66_000], found.most_tokens) == [[1], [3], [2, 0]]
