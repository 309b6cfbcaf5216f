"""The forecast of the fast path: against a card's figures, the model itself, and by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from kernel_models import make

from runner.contract.batch import BatchPlan, describe_change, smaller
from runner.forecast.choose import choose, choose_plain, surely_fits
from runner.forecast.forecast import forecast, lesson_key
from runner.forecast.lengths import Lengths
from runner.forecast.model_shape import read_shape
from runner.forecast.passes import batch_tokens, sizes_of, steady
from runner.forecast.seconds import measuring_seconds, step_seconds
from runner.forecast.what_fits import longest_row
from runner.forecast.work import GIB, Box, Work
from runner.training.kernels.fast_model import measure
from runner.training.kernels.recognise import recognise

LLAMA_8B: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
H100 = 989e12  # dense bf16 operations a second, NVIDIA's data sheet
CONTEXT = int(0.6 * GIB)
# 26 November 2026: allocator's cap, GiB reserved (H200), tokens a second (H100): measurements.md.
# Without a cap reserved is of the 27th, when weights began to stay unpacked.
MEASURED = [
    (8.6, 8.43, 10_916),
    (14.5, 14.31, 13_376),
    (22.5, 21.84, 14_633),
    (None, 59.22, 15_384),
]


def work(config: dict[str, Any] = LLAMA_8B, **changes: Any) -> Work:
    """Describe the run of the measurements: rows of 64 to 2,048 tokens, some 9,770 a step."""
    shape = read_shape(config)
    assert shape is not None
    lengths = [min(2048, 64 + 23 * i % 1090 + (900 if i % 9 == 0 else 0)) for i in range(224)]
    given: dict[str, Any] = {
        "shape": shape,
        "method": "qlora",
        "rank": 16,
        "target_modules": "all-linear",
        "dropout": 0.0,
        "lengths": Lengths.of([*lengths, 2048, 2048]),
        "effective_batch_size": 16,
        "total_steps": 14,
        "fast": True,
    }
    return Work(**(given | changes))


def box(cap: float | None) -> Box:
    """Give a card of 80 GiB, whose allocator has a cap."""
    budget = None if cap is None else int(cap * GIB) + CONTEXT
    return Box(gpu_memory_bytes=80 * GIB, budget_bytes=budget, flops=H100, context_bytes=CONTEXT)


@pytest.mark.parametrize(("cap", "reserved", "rate"), MEASURED)
def test_it_is_near_what_a_card_took(cap: float | None, reserved: float, rate: int) -> None:
    """Memory within 5%, time within 10% of what the whole train stage took."""
    what = work()
    found = choose(what, box(cap))
    assert found.fits
    assert found.gpu_memory_bytes / GIB == pytest.approx(reserved + 0.6, rel=0.05)
    seconds = step_seconds(what, found.batch_plan, box(cap))
    assert seconds is not None
    tokens = what.lengths.mean * 16
    assert tokens / seconds == pytest.approx(rate, rel=0.10)


def test_sizes_by_hand() -> None:
    """What a token takes of Llama 3's 8B: the figures that the kernels were measured with."""
    found = sizes_of(work())
    assert (found.lean, found.full) == (8192, 94_336)
    assert found.weights == 6_979_321_856


@pytest.mark.filterwarnings("ignore")  # the libraries' own, about each other
@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("llama", "all-linear"),
        ("llama", ["q_proj", "v_proj", "down_proj"]),
        ("gemma2", "all-linear"),
        ("gemma3_text", "all-linear"),
        ("olmo2", "all-linear"),
        ("glm4", ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]),
        ("granite", "all-linear"),
        ("smollm3", "all-linear"),
    ],
)
def test_sizes_are_those_of_the_model(family: str, targets: Any) -> None:
    """The shape in config.json tells what is counted on the recognised model."""
    model = make(family, targets=targets, quantised=family == "llama")
    config = model.get_base_model().config.to_dict()
    what = work(
        config,
        rank=4,
        target_modules=targets if targets == "all-linear" else tuple(targets),
        method="qlora" if family == "llama" else "lora",
    )
    parts = recognise(model, dtype=torch.float32, longest=64)
    words = 2 * parts.movable_words
    counted = measure(parts.layers, 300, 2, embedding=words)
    assert sizes_of(what) == counted
    assert bool(counted.unpacked) is (family == "llama")
    in_fp8 = measure(parts.layers, 300, 2, fp8=True, embedding=words)
    assert sizes_of(replace(what, fp8=True)) == in_fp8
    assert in_fp8.back > counted.back
    drops = measure(parts.layers, 300, 2, drops=True, embedding=words)
    assert sizes_of(replace(what, dropout=0.1)) == drops != counted
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    copies = sum(g.down.numel() + g.up.numel() for g in parts.adapter.groups)
    there = steady(what, Box())
    assert there.adapter == 4 * trained + 2 * copies
    assert there.gradients == 4 * parts.adapter.flat_grad.numel() == 4 * trained
    assert there.optimizer == 8 * trained


def test_a_batch_of_packed_sequences_is_as_long_as_these() -> None:
    """By hand: four of 4,096 tokens; unpacked, the four longest rows."""
    assert batch_tokens(work(packed_to=4096), 4) == 4 * 4096
    lengths = Lengths.of([10, 20, 30, 30, 5, 7])
    assert batch_tokens(work(lengths=lengths), 4) == 30 + 30 + 20 + 10


@pytest.mark.filterwarnings("ignore")
def test_positions_are_counted_as_they_lie_there() -> None:
    """Cosines and sines of the longest row, beside the weights and where a layer is unpacked to."""
    model = make("llama", quantised=False)
    what = work(model.get_base_model().config.to_dict(), method="lora")
    turns = recognise(model, dtype=torch.float32, longest=what.longest).layers[0].turns
    assert turns is not None
    held = steady(what, Box()).weights - what.weight_bytes
    assert held == 4 * (turns.cos.numel() + turns.sin.numel())


def test_capped_scores_take_their_room_whatever_the_tokens() -> None:
    """By hand: 2 to the 23rd scores at once, six times in 16 bits and their way back, two in 32."""
    capped = work(LLAMA_8B | {"attn_logit_softcapping": 50.0})
    least = forecast(capped, choose(capped, box(None)).batch_plan, Box()).gpu_memory.activations
    plain = forecast(work(), choose(capped, box(None)).batch_plan, Box()).gpu_memory.activations
    assert sizes_of(capped).fixed == 2**23 * (2 * 6 * 2 + 2 * 2 * 4) == 40 * 2**23
    assert 0 < least - plain <= 40 * 2**23
    assert sizes_of(work()).fixed == 0


def test_a_table_of_words_on_the_host_is_not_counted_on_the_card() -> None:
    """The plan of a card too small for the longest row has it there; both memories by hand."""
    what, small = work(), box(6.9)
    found = choose(what, small)
    assert found.batch_plan.embedding_on_host
    assert not found.batch_plan.activation_offloading
    assert found.fits
    table = 2 * 128256 * 4096
    here = forecast(what, found.batch_plan.model_copy(update={"embedding_on_host": False}), small)
    assert here.gpu_memory.weights - found.gpu_memory.weights == table
    assert found.host_memory_bytes - here.host_memory_bytes == table
    tied = work(LLAMA_8B | {"tie_word_embeddings": True})
    assert not choose(tied, small).batch_plan.embedding_on_host


def test_fp8_is_forecast_quicker_and_leaves_more_free() -> None:
    """Under a cap it plans for less memory, and without one it takes less time."""
    exact, eighth = work(), replace(work(), fp8=True)
    whole = box(None)
    plan = choose(exact, whole).batch_plan
    quick, slow = step_seconds(eighth, plan, whole), step_seconds(exact, plan, whole)
    assert quick is not None
    assert slow is not None
    assert 0.6 < quick / slow < 0.9
    found = choose(eighth, box(14.5))
    assert found.fits
    assert found.gpu_memory_bytes < choose(exact, box(14.5)).gpu_memory_bytes


@pytest.mark.parametrize("gib", [8, 12, 16, 24, 48, 80])
def test_what_is_chosen_fits(gib: int) -> None:
    """On every card that is sold; more memory is never slower."""
    card = Box(gpu_memory_bytes=gib * GIB, flops=H100)
    found = choose(work(), card)
    assert found.fits
    assert found.batch_plan.effective_batch_size == 16
    more = choose(work(), replace(card, gpu_memory_bytes=2 * gib * GIB))
    assert more.seconds <= found.seconds  # type: ignore[operator]
    assert more.gpu_memory_bytes < 60 * GIB


def test_an_old_card_and_an_unknown_model_take_the_plain_path() -> None:
    """Its plan has no layers kept, and is the one that is named as the way out, too."""
    card = Box(gpu_memory_bytes=24 * GIB, flops=H100)
    plain = choose_plain(work(), card)
    assert plain.batch_plan.layers_kept is None
    assert choose(work(), replace(card, bf16=False)) == plain
    assert choose(work(fast=False), card) == plain


def test_a_row_that_is_too_long_for_the_card_goes_through_the_host() -> None:
    """The other rows keep on the card; where not even that is enough, the plain path is planned."""
    what = work(lengths=Lengths.of([500] * 20 + [40_000]))
    found = choose(what, Box(gpu_memory_bytes=16 * GIB, flops=H100))
    assert found.fits
    assert found.batch_plan.activation_offloading
    assert found.batch_plan.tokens_per_pass < 40_000  # type: ignore[operator]
    assert found.host_memory_bytes > 40_000 * 2 * 2 * 4096 * 32
    small = choose(what, Box(gpu_memory_bytes=8 * GIB, flops=H100))
    assert small.batch_plan.layers_kept is None
    longest = longest_row(work(lengths=Lengths.of([500_000])), Box(gpu_memory_bytes=24 * GIB))
    assert longest is not None
    assert longest > 78_475  # what another project documents for a card of this size


def test_what_a_spec_says_is_kept() -> None:
    """A limit of rows at once, and checkpointing: no layer keeps anything then."""
    card = Box(gpu_memory_bytes=24 * GIB, flops=H100)
    found = choose(work(), card, batch_size=4, checkpointing=True).batch_plan
    assert (found.per_device_batch_size, found.gradient_accumulation_steps) == (4, 4)
    assert found.layers_kept == 0
    long = work(lengths=Lengths.of([500] * 20 + [40_000]))  # what the host keeps for
    card = Box(gpu_memory_bytes=16 * GIB, flops=H100)
    kept = [choose(long, card, checkpointing=on).batch_plan.layers_kept for on in (False, True)]
    assert kept[0]
    assert kept[1] == 0


def test_what_surely_fits_leaves_room_for_unpacked_weights() -> None:
    """Of 8B they take 12.8 GiB: so much more memory has to be there than without them."""
    what, plan = work(), choose(work(), box(None)).batch_plan
    assert plan.layers_unpacked == 32
    packed = plan.model_copy(update={"layers_unpacked": 0})
    tenths = range(100, 780)
    fitting = [
        sum(surely_fits(what, one, box(tenth / 10)) for tenth in tenths) for one in (packed, plan)
    ]
    assert (fitting[0] - fitting[1]) / 10 == pytest.approx(12.8 + 0.4, abs=0.5)  # B beside them
    assert surely_fits(what, plan, box(None), short=1.01)
    assert not surely_fits(what, plan, box(None), short=3.0)  # it took three times as much


def test_seconds_of_weights_that_stay_unpacked_and_of_measurements() -> None:
    """Beside what a card took, and by hand: 15.0 GFLOP a token forward, of 989 TFLOP/s 53%."""
    what, whole = work(held_out_rows=100, held_out_tokens=100_000, eval_steps=7), box(None)
    plan = choose(what, whole).batch_plan
    packed = plan.model_copy(update={"layers_unpacked": 0})
    quick, slow = (step_seconds(what, one, whole) for one in (plan, packed))
    assert quick is not None
    assert slow is not None
    assert 0.02 < 1 - quick / slow < 0.04  # 2.8 and 3.7% were measured
    found = measuring_seconds(what, plan, whole)
    assert found == pytest.approx(what.measurements * 100_000 * 15.0e9 / (0.53 * H100), rel=0.1)
    few = replace(what, held_out_rows=2, held_out_tokens=64)
    # A third of the 0.054 to 0.066 s that a pass of 64 tokens took, forward and back.
    found = measuring_seconds(few, plan, whole)
    assert found == pytest.approx(few.measurements * 0.06 / 3, rel=0.1)


def test_a_long_row_is_one_pass_however_short_the_others() -> None:
    """The host keeps for it: it is not cut, so it costs what one pass costs by itself."""
    what = work(lengths=Lengths.of([65_536] * 3), effective_batch_size=1, total_steps=3)
    plan = choose(what, box(15.4)).batch_plan
    assert plan.activation_offloading
    few, many = (
        step_seconds(what, plan.model_copy(update={"tokens_per_pass": tokens}), box(15.4))
        for tokens in (1024, 65_536)
    )
    assert few == many


def test_a_pass_is_no_smaller_than_the_longest_row() -> None:
    """Whatever a plan says: a row is not cut."""
    plan = choose(work(), box(None)).batch_plan
    few, all_of_it = (
        forecast(work(), plan.model_copy(update={"tokens_per_pass": tokens}), Box())
        for tokens in (64, 2048)
    )
    assert few.gpu_memory.activations == all_of_it.gpu_memory.activations


def test_the_way_down_ends() -> None:
    """Each step down needs less memory; at the end there is no smaller plan."""
    what, card = work(), box(None)
    plan: BatchPlan | None = choose(what, card).batch_plan
    needs, told = [], []
    while plan is not None and plan.layers_kept is not None and len(needs) < 40:
        needs.append(forecast(what, plan, Box()).gpu_memory_bytes)
        less = smaller(plan, lengths=[what.longest])
        if less is not None:
            told.append(describe_change(plan, less))
        plan = less
    assert plan is None
    assert needs == sorted(needs, reverse=True)
    assert len(set(needs)) == len(needs)
    assert told[0].startswith("weights no longer stay unpacked: 16 × 1, at most ")
    assert told[1].startswith("halved: ")
    assert told[-1] == (
        "16 × 1, at most 1,024 tokens at once, 0 layers kept, activation offloading, "
        "same effective batch 16"
    )


@pytest.mark.parametrize(
    ("lengths", "last"), [((), [1, 1]), ((3,), [3, 1]), ((4096,), [4096, 2048, 1024])]
)
def test_every_plan_on_the_way_down_can_be_written(
    lengths: tuple[int, ...], last: list[int]
) -> None:
    """By hand, whether the longest row is known or not: no pass is without a token."""
    plan: BatchPlan | None = BatchPlan(
        per_device_batch_size=4, gradient_accumulation_steps=1, tokens_per_pass=9000, layers_kept=0
    )
    tokens = []
    while plan is not None and len(tokens) < 40:
        tokens.append(BatchPlan.model_validate(plan.model_dump()).tokens_per_pass)
        plan = smaller(plan, lengths=lengths)
    assert plan is None
    assert tokens[-len(last) :] == last


def test_half_of_the_layers_keep_everything_on_each_step_down() -> None:
    """By hand, for 8B: each step costs a process, and one by one there would be 32."""
    plan: BatchPlan | None = BatchPlan(
        per_device_batch_size=4, gradient_accumulation_steps=1, tokens_per_pass=64, layers_kept=32
    )
    kept = []
    while plan is not None and plan.layers_kept:
        kept.append(plan.layers_kept)
        plan = smaller(plan, lengths=[64])
    assert kept == [32, 16, 8, 4, 2, 1]
    assert plan is not None
    assert (plan.layers_kept, plan.tokens_per_pass) == (0, 64)
    assert smaller(plan, lengths=[64], may_offload=False) is None  # there is no other memory


def test_weights_stay_packed_where_the_box_learned_that_it_takes_more() -> None:
    """What fits without them is not said not to fit."""
    box48 = Box(gpu_memory_bytes=48 * GIB, flops=H100)
    first = choose(work(), box48)
    assert first.batch_plan.layers_unpacked
    key = lesson_key("qlora", first.batch_plan)
    found = choose(work(), replace(box48, learned_memory={key: 1.1}))
    assert found.batch_plan.layers_unpacked == 0
    assert found.fits


def test_lessons_of_the_two_paths_are_kept_apart() -> None:
    """They err in other ways."""
    fast = choose(work(), box(14.5)).batch_plan
    plain = choose_plain(work(), box(14.5)).batch_plan
    assert lesson_key("qlora", fast) != lesson_key("qlora", plain)
    card = replace(box(14.5), learned_fast_time=2.0)
    slow, usual = (step_seconds(work(), fast, one) for one in (card, box(14.5)))
    assert slow == pytest.approx(2 * usual)  # type: ignore[operator]
    assert step_seconds(work(), plain, card) == step_seconds(work(), plain, box(14.5))


def test_a_long_row_is_near_what_a_card_took() -> None:
    """26 November 2026, one H200: 65,536 tokens under a cap of 15.4 GiB took 14.32 of it."""
    what = work(lengths=Lengths.of([65_536] * 3), effective_batch_size=1, total_steps=3)
    card = box(15.4)
    assert longest_row(work(lengths=Lengths.of([200_000])), card) > 60_000  # type: ignore[operator]
    found = choose(what, card)
    assert found.batch_plan.activation_offloading
    assert found.gpu_memory.total - found.gpu_memory.context == pytest.approx(14.32 * GIB, rel=0.05)


def test_long_rows_alone_take_no_room_for_short_ones() -> None:
    """The next day: 65,536 tokens took the same 14.32 GiB under a cap of 23.4."""
    known: dict[str, Any] = {"effective_batch_size": 1, "total_steps": 3}
    card = box(23.4)
    found = choose(work(lengths=Lengths.of([65_536] * 3), **known), card)
    assert found.gpu_memory.total - found.gpu_memory.context == pytest.approx(14.32 * GIB, rel=0.05)
    for more in (
        {"lengths": Lengths.of([65_536] * 3 + [500])},
        {"lengths": Lengths.of([65_536] * 3), "held_out_rows": 4, "held_out_tokens": 2000},
        {
            "lengths": Lengths.of([65_536] * 3).model_copy(update={"rounded": True})
        },  # some may be shorter
        {"lengths": Lengths.of([65_536] * 3), "packed_to": 65_536},
    ):
        beside = choose(work(**known, **more), card)
        assert beside.gpu_memory.activations > 1.3 * found.gpu_memory.activations
