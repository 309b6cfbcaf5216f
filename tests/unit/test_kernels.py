"""The fast path's arithmetic on torch references: PEFT's gradients, bitsandbytes' weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from kernel_models import FAMILIES, PHI_4_MINI, learned, make, plain_step, rows, take_grads

from runner.forecast.passes import Passes, peak_bytes
from runner.training.kernels import capped_attention, dropout, embedding, long_layer, nf4
from runner.training.kernels.fast_model import FastModel
from runner.training.kernels.recognise import NotRecognised, obstacle, recognise
from runner.training.kernels.rows import divide, lay_out, worst

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, about each other
OFF = 1e-5  # relative, in fp32
ROUNDING = 1e-7  # of the largest gradient: what fp32 may leave in one that is far smaller
NF4 = ("llama", "qwen2", "phi3", "gemma2")
"""Families whose weights are packed here: bitsandbytes on a CPU takes seconds a model."""


def fast(
    model: Any, *, kept: int | None = None, most: int = 70, on_host: bool = False
) -> FastModel:
    """Set the fast path up for rows of at most 64 tokens."""
    parts = recognise(model, dtype=torch.float32, longest=64)
    passes = Passes(
        most_tokens=most, layers_kept=kept, budget_bytes=None, chunk=16, on_host=on_host
    )
    return FastModel(parts=parts, passes=passes)


def assert_same_step(model: Any, **how: Any) -> None:
    """Hold loss and every gradient against PEFT's, before and after the weights were stacked."""
    batch = rows(37, 20, 64)
    wanted_loss, wanted = plain_step(model, batch)
    found_loss = float(fast(model, **how).train_on(batch, learned(batch)))
    found = take_grads(model)
    assert found_loss == pytest.approx(wanted_loss, rel=1e-5)
    assert found.keys() == wanted.keys()
    rest = ROUNDING * max(float(grad.norm()) for grad in wanted.values())
    for name, grad in wanted.items():
        assert float((found[name] - grad).norm()) <= OFF * float(grad.norm()) + rest, name
    again_loss, _ = plain_step(model, batch)
    assert again_loss == pytest.approx(wanted_loss, rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_peft(family: str) -> None:
    """For each family: passes of several rows, a layer of three that keeps everything."""
    assert_same_step(make(family, quantised=family in NF4), kept=1)


@pytest.mark.parametrize("kept", [None, 0])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "olmo2", "granite"])
def test_layers_kept_change_no_gradient(family: str, kept: int | None) -> None:
    """Whether layers keep everything or their input alone, gradients are the same."""
    assert_same_step(make(family, quantised=False), kept=kept)


def test_capped_scores_in_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few queries go at once, with a window and without."""
    monkeypatch.setattr(capped_attention, "CAPPED_SCORES", 400)
    assert_same_step(make("gemma2", quantised=False), kept=1)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 16}),
        ("phi3", {"sliding_window": 16}),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 16, "no_rope_layers": [1] * 3}),
    ],
)
def test_windows_are_those_that_the_model_uses(family: str, settings: dict[str, Any]) -> None:
    """In all layers, in some, or in none although the config names one.

    The check at set-up does not see a window that is wider than its two rows.
    """
    assert_same_step(make(family, quantised=False, **settings), kept=1)


def test_positions_that_change_with_the_length() -> None:
    """Phi 4 mini's, for rows that are shorter than where they change; three quarters turn."""
    assert_same_step(make("phi3", quantised=False, **PHI_4_MINI), kept=1)


@pytest.mark.parametrize(
    ("quantised", "targets"),
    [
        (False, "all-linear"),
        (True, ["q_proj", "v_proj"]),
        (True, ["k_proj", "o_proj", "down_proj"]),
    ],
)
def test_adapters_on_some_projections(quantised: bool, targets: Any) -> None:  # noqa: FBT001
    """16-bit LoRA, and adapters on any of the projections, also on one of three side by side."""
    assert_same_step(make("llama", quantised=quantised, targets=targets))


UNKNOWN = {
    "capped scores": ("llama", {"attn_logit_softcapping": 5.0}, "a cap on attention's scores"),
    "both halves at once": ("stablelm", {"use_parallel_residual": True}, "norms in unusual places"),
    "norms of single heads": ("stablelm", {"qk_layernorm": True}, "the weight model.layers.0"),
    "clipped": ("olmo", {"clip_qkv": 1.0}, "clipped queries"),
    "by length": (
        "phi3",
        {**PHI_4_MINI, "original_max_position_embeddings": 32},
        "beyond 32 tokens",
    ),
    "by length, whatever else is named": (
        "llama",
        {
            "max_position_embeddings": 32,
            "rope_parameters": {
                "rope_type": "dynamic",
                "rope_theta": 10_000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 128,
            },
        },
        "beyond 32 tokens",
    ),
    "another gate": ("llama", {"hidden_act": "relu"}, "another gate"),
}


@pytest.mark.parametrize("case", ["biases", "a saved module"])
def test_what_is_trained_beside_lora_is_refused(case: str) -> None:
    """PEFT trains biases and whole modules, too; here they would get no gradient, unnoticed."""
    from peft import LoraConfig, get_peft_model

    more: dict[str, Any] = {"bias": "all"} if case == "biases" else {"modules_to_save": ["norm"]}
    model = make("qwen2", quantised=False).unload()
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, **more))
    with pytest.raises(NotRecognised, match="a trained weight beside LoRA's"):
        fast(model)


@pytest.mark.parametrize("case", UNKNOWN)
def test_other_layers_are_not_recognised(case: str) -> None:
    """A layer with something unknown is refused, and nothing about the model was changed."""
    family, settings, why = UNKNOWN[case]
    model = make(family, quantised=False, **settings)
    before, _ = plain_step(model, rows(20))
    with pytest.raises(NotRecognised, match=why):
        fast(model)
    assert plain_step(model, rows(20))[0] == before
    assert why in str(obstacle(without_weights(family, **settings), longest=64))


@pytest.mark.parametrize("family", FAMILIES)
def test_prepare_tells_the_same_without_weights(family: str) -> None:
    """What set-up will take, prepare does not announce as slow."""
    assert obstacle(without_weights(family), longest=64) is None


def without_weights(family: str, **settings: Any) -> Any:
    """Make a model as prepare does: shapes and no numbers."""
    with torch.device("meta"):
        return make(family, quantised=False, **settings)


@pytest.mark.parametrize(
    "family", ["llama", "mistral", "qwen3", "gemma2", "phi3", "olmo2", "granite", "smollm3"]
)
def test_rows_that_the_host_keeps_for_change_no_gradient(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tile by tile, with a tile that is not full, and each layer's input kept elsewhere."""
    monkeypatch.setattr(long_layer, "TILE", 24)
    assert_same_step(make(family, quantised=family == "llama"), kept=0, on_host=True, most=40)


def test_long_and_short_rows_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only rows that the card does not hold go through the host; its memory grows with them."""
    monkeypatch.setattr(long_layer, "TILE", 24)
    model = make("llama")
    one = fast(model, kept=0, most=40, on_host=True)
    room = peak_bytes(one.sizes, 40, 0, 16)
    one.passes = replace(one.passes, budget_bytes=room)
    for lengths in ((37, 20, 64), (50, 9), (64, 61, 12)):
        batch = rows(*lengths)
        wanted_loss, wanted = plain_step(model, batch)
        assert float(one.train_on(batch, learned(batch))) == pytest.approx(wanted_loss, rel=1e-5)
        found = take_grads(model)
        for name, grad in wanted.items():
            assert float((found[name] - grad).norm()) <= OFF * float(grad.norm()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_that_nobody_wrote_is_not_read(dtype: torch.dtype) -> None:
    """With NaN wherever memory is taken: some processors read lines beyond their end in bf16."""
    model = make("llama").to(dtype)
    for name, weight in model.named_parameters():
        if "lora" in name:
            weight.data = weight.data.float()
    batch = rows(37, 20, 64)
    parts = recognise(model, dtype=dtype, longest=64)
    passes = Passes(most_tokens=70, layers_kept=1, budget_bytes=None, chunk=16)
    torch.use_deterministic_algorithms(True)  # fills what `torch.empty` gives
    try:
        loss = FastModel(parts=parts, passes=passes).train_on(batch, learned(batch))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.isfinite(loss)
    found = take_grads(model)
    assert len(found) == 42
    assert all(bool(torch.isfinite(grad).all()) for grad in found.values())


def test_micro_batches_add_up() -> None:
    """Gradients of several micro-batches add up until somebody takes them away."""
    model = make("llama")
    batch = rows(37, 20, 64)
    _, wanted = plain_step(model, batch)
    one = fast(model)
    for row in batch:
        one.train_on([row], learned(batch))
    found = take_grads(model)
    for name, grad in wanted.items():
        assert float((found[name] - grad).norm()) <= OFF * float(grad.norm()), name
    one.train_on(batch, learned(batch))
    again = take_grads(model)
    for name, grad in wanted.items():
        assert float((again[name] - grad).norm()) <= OFF * float(grad.norm()), name


def test_weights_that_stay_unpacked_change_no_number() -> None:
    """Of two layers of three, then of none: the step is the same, and the memory comes back."""
    model, batch = make("llama"), rows(37, 20, 64)
    one = fast(model, kept=1)

    def step() -> tuple[float, dict[str, torch.Tensor]]:
        loss = float(one.train_on(batch, learned(batch)))
        return loss, take_grads(model)

    def places() -> int:
        return len(one.parts.buffers._of)  # what memory they hold shows nowhere else

    loss, grads = step()
    shared = places()
    one.parts.keep_unpacked(2)
    for _ in range(2):  # unpacked anew, then found unpacked
        again, found = step()
        assert again == loss
        assert all(torch.equal(found[name], grad) for name, grad in grads.items())
        assert places() == shared + 2 * len(one.parts.layers[0].groups)
    one.parts.keep_unpacked(0)
    assert places() == shared
    assert step()[0] == loss


@pytest.mark.parametrize(("quantised", "stay"), [(False, 0), (True, 0), (True, 2)])
def test_weights_that_change_are_seen(quantised: bool, stay: int) -> None:  # noqa: FBT001
    """After an optimizer step, or after weights were loaded, a step computes with the new ones.

    Also where the base's weights still lie unpacked from the step before, with the old ones beside.
    """
    model = make("llama", quantised=quantised)
    batch = rows(30)
    one = fast(model)
    one.parts.keep_unpacked(stay)
    before = float(one.train_on(batch, learned(batch)))
    model.zero_grad(set_to_none=True)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.mul_(3)
    after = float(one.train_on(batch, learned(batch)))
    model.zero_grad(set_to_none=True)
    assert after != pytest.approx(before, rel=1e-4)
    assert after == pytest.approx(plain_step(model, batch)[0], rel=1e-5)


def test_a_gradient_that_was_taken_away_is_begun_anew() -> None:
    """Of one weight alone: it would get none, and its sum would have the steps before in it."""
    model, batch = make("llama", quantised=False), rows(37, 20)
    one = fast(model)
    _, wanted = plain_step(model, batch)
    one.train_on(batch, learned(batch))
    last = [weight for weight in model.parameters() if weight.grad is not None][-1]
    last.grad = None
    one.train_on(batch, learned(batch))
    found = take_grads(model)
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        assert float((found[name] - grad).norm()) <= OFF * float(grad.norm()), name


def test_adapters_have_a_scale_each() -> None:
    """The first one's is 1: that says nothing of the others."""
    model = make("llama", quantised=False)
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            module.scaling["default"] = 3.0 if "down_proj" in name else 1.0
    assert_same_step(model)


def test_weights_side_by_side_take_no_memory_twice() -> None:
    """In 16 bits they are laid beside each other, and the model's own modules read them there."""

    def taken() -> int:
        held = [weight for weight in model.parameters() if not weight.requires_grad]
        held += [group.weight() for layer in layers for group in layer.groups]
        places = {one.untyped_storage().data_ptr(): one.untyped_storage() for one in held}
        return sum(place.nbytes() for place in places.values())

    model, layers = make("llama", quantised=False), ()
    before = taken()
    layers = recognise(model, dtype=torch.float32, longest=64).layers
    assert taken() == before


def test_a_step_that_learns_nothing() -> None:
    """Rows without a learned token give loss 0 and gradients of 0."""
    model = make("llama")
    batch = rows(20, silent=20)
    assert float(fast(model).train_on(batch, 0)) == 0
    assert all(float(grad.abs().sum()) == 0 for grad in take_grads(model).values())


@pytest.mark.parametrize("shapes", [[(256, 64), (256, 64)], [(128, 64), (70, 64)], [(96, 192)]])
def test_unpacked_weights_are_those_of_bitsandbytes(shapes: list[tuple[int, int]]) -> None:
    """Bit for bit, side by side or apart; and bitsandbytes still reads its own."""
    import bitsandbytes

    torch.manual_seed(0)
    weights = [
        bitsandbytes.nn.Params4bit(
            torch.randn(*shape), requires_grad=False, quant_type="nf4", compress_statistics=True
        ).to("cpu")
        for shape in shapes
    ]

    def theirs() -> torch.Tensor:
        read = bitsandbytes.functional.dequantize_4bit
        return torch.cat([read(weight.data, weight.quant_state) for weight in weights])

    wanted = theirs()
    found = [nf4.unpack_reference(piece, torch.float32) for piece in nf4.stack(weights)]
    assert torch.equal(torch.cat(found), wanted)
    assert torch.equal(theirs(), wanted)


@pytest.mark.parametrize(
    ("lengths", "most", "passes"),
    [
        ([5, 5, 5, 5], 10, 2),
        ([9, 1, 1, 1], 10, 2),
        ([30, 2, 2], 10, 2),  # longer than the limit: alone, and the limit is its length
        ([3], 10, 1),
        ([4, 4, 4], 7, 3),
    ],
)
def test_a_batch_is_divided(lengths: list[int], most: int, passes: int) -> None:
    """Every row once, as few passes as hold, none above the limit or the longest row."""
    found = divide(lengths, most)
    assert sorted(i for one in found for i in one) == list(range(len(lengths)))
    assert len(found) <= passes
    assert max(sum(lengths[i] for i in one) for one in found) <= max(most, *lengths)


@pytest.mark.timeout(300)  # one more pass at a time, it took hours
@pytest.mark.parametrize("share", [0.6, 0.4, 0.3])
def test_a_great_many_rows_are_divided(share: float) -> None:
    """Held-out rows by the ten thousand, each a good part of a pass: no more than 3% too many."""
    lengths = [int(share * 4096) + i % 64 for i in range(10_000)]
    found = divide(lengths, 4096)
    assert sorted(i for one in found for i in one) == list(range(10_000))
    assert max(sum(lengths[i] for i in one) for one in found) <= 4096
    assert len(found) <= 1.03 * 10_000 / (1 // share)


def test_rows_of_one_token_are_divided() -> None:
    """By the thousand."""
    assert [len(one) for one in divide([1] * 5000, 1024)] == [1000] * 5


def test_the_worst_pass_is_tried_first() -> None:
    """The probe tries the longest row, and as many more as a pass may hold."""
    assert worst([3, 9, 4, 2], 13, at_once=8) == [1, 2]
    assert worst([3, 9, 4, 2], 9, at_once=8) == [1]
    assert worst([3, 9, 4, 2], 99, at_once=2) == [1, 2]


def test_rows_are_laid_out() -> None:
    """Positions start anew with each row, and the last token of a row has no successor."""
    (first, labels), second = rows(6, 7, silent=2)
    labels[4] = -100
    laid = lay_out([(first, labels), second], "cpu", fill=True)
    assert laid.tokens == 64
    assert laid.ends == (0, 6, 13, 64)
    assert laid.starts.tolist() == [0, 6, 13, 64]
    assert laid.position[:13].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6]
    assert laid.learned.tolist() == [1, 2, 4, 7, 8, 9, 10, 11]
    assert laid.targets.tolist()[:3] == first[[2, 3, 5]].tolist()
    # Attention on a card goes by these two; torch alone does not.
    assert laid.last.tolist() == [6] * 6 + [13] * 7 + [64] * 51
    assert laid.longest == 51


class Masked(torch.nn.Module):
    """Drops what the fast path says that it drops, of one row at a time."""

    def __init__(self, chance: float, key: int, first_line: list[int]) -> None:
        """Begin with a projection's key, and where a row begins, which changes."""
        super().__init__()
        self.chance, self.key, self.first_line = chance, key, first_line

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop."""
        return dropout.dropped(x[0], self.chance, self.key, self.first_line[0])[None]


@pytest.mark.parametrize(
    ("family", "kept", "on_host"),
    [
        ("llama", 1, False),
        ("llama", 0, True),
        ("gemma2", 0, False),
        ("gemma2", 0, True),
        ("phi3", None, False),
    ],
)
def test_dropout_is_the_same_on_the_way_back(
    family: str,
    kept: int | None,
    on_host: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PEFT with the very same numbers dropped has the same loss and gradients.

    Whether layers keep what they made, make it again, or go tile by tile.
    """
    monkeypatch.setattr(long_layer, "TILE", 24)
    model = make(family, quantised=False, lora_dropout=0.2)
    batch = rows(64, 37, 20)
    one = fast(model, kept=kept, most=40 if on_host else 200, on_host=on_host)
    if on_host:
        batch = batch[:1]
    torch.manual_seed(7)
    found_loss = float(one.train_on(batch, learned(batch)))
    found = take_grads(model)
    torch.manual_seed(7)
    draws = dropout.Draws(seed=int(torch.randint(2**31, ())))
    first_line = [0]
    for name, module in list(model.named_modules()):
        if name.endswith("lora_dropout"):
            parent = model.get_submodule(name.removesuffix(".lora_dropout"))
            group, number = place_of(one, parent.lora_A["default"].weight)
            key = draws.key(group, number)
            module["default"] = Masked(0.2, key, first_line)
    total, items = 0.0, learned(batch)
    for ids, labels in batch:
        logits = model(input_ids=ids[None]).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits, labels[1:], ignore_index=-100, reduction="sum"
        )
        (loss / items).backward()
        total += float(loss.detach()) / items
        first_line[0] += ids.numel()
    assert found_loss == pytest.approx(total, rel=1e-5)
    wanted = take_grads(model)
    rest = ROUNDING * max(float(grad.norm()) for grad in wanted.values())
    for name, grad in wanted.items():
        mine = found[name.replace(".module.", ".")]
        assert float((mine - grad).norm()) <= OFF * float(grad.norm()) + rest, name


def place_of(one: FastModel, weight: torch.Tensor) -> tuple[int, int]:
    """Find the adapter that a weight belongs to."""
    for group in one.parts.adapter.groups:
        for number, lora in enumerate(group.loras):
            if lora.down is weight:
                return group.number, number
    raise AssertionError


def test_dropout_drops_as_often_as_it_says() -> None:
    """One number in five, others each time, the rest made up for; measuring drops nothing."""
    x = torch.ones(400, 100)
    first = dropout.dropped(x, 0.2, dropout.Draws(seed=1).key(3, 0), 0)
    other = dropout.dropped(x, 0.2, dropout.Draws(seed=1).key(3, 1), 0)
    later = dropout.dropped(x, 0.2, dropout.Draws(seed=2).key(3, 0), 0)
    assert float(first.mean()) == pytest.approx(1, abs=0.02)
    assert set(first.flatten().tolist()) == {0.0, 1.25}
    for one in (other, later):
        both = float(((first == 0) & (one == 0)).float().mean())
        assert both == pytest.approx(0.04, abs=0.006)
    by_line, by_column = ((first == 0).float().mean(dim) for dim in (1, 0))
    assert 0.02 < float(by_line.std()) < 0.06  # of 100 independent numbers: 0.04
    assert 0.012 < float(by_column.std()) < 0.03  # of 400: 0.02
    assert torch.equal(
        first[24:], dropout.dropped(x[24:], 0.2, dropout.Draws(seed=1).key(3, 0), 24)
    )


def test_words_are_fetched_from_a_table_elsewhere() -> None:
    """The rows named, in their order, one of them twice; without a card torch looks them up."""
    table = torch.randn(50, 8)
    ids = torch.tensor([7, 0, 49, 7])
    assert torch.equal(embedding.fetch(table, ids, ids), table[[7, 0, 49, 7]])
    there = embedding.to_host(table)
    assert torch.equal(there, table)
    assert there.data_ptr() != table.data_ptr()
