"""Set-up of the fast path on real tiny models: what it takes, what it refuses, what it reserves."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from kernel_models import learned, make, plain_step, rows, take_grads

from runner.contract.batch import BatchPlan
from runner.forecast.passes import MOMENTS, MOST_HOLES, Passes, long_bytes, peak_bytes
from runner.training.fit import fast_path
from runner.training.fit.fast_path import FastPath, find
from runner.training.fit.memory import Meter
from runner.training.fit.stop import Interrupted
from runner.training.kernels import dropout, fast_model, recognise_block
from runner.training.kernels.fast_model import FastModel
from runner.training.kernels.glu import Gate
from runner.training.kernels.loss import HeadLoss
from runner.training.kernels.recognise import NotRecognised, recognise
from runner.training.kernels.recognise_block import _window

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, about each other
PLAN = BatchPlan(per_device_batch_size=2, gradient_accumulation_steps=1)


def data(*lengths: int) -> Dataset:
    """Put rows into a data set."""
    drawn = rows(*lengths)
    return Dataset.from_dict(
        {
            "input_ids": [ids.tolist() for ids, _ in drawn],
            "labels": [labels.tolist() for _, labels in drawn],
        }
    )


def found(model: Any, train: Dataset, plan: BatchPlan = PLAN, held_out: Any = None) -> Any:
    """Find the fast path of a model.

    TRL's trainer would only hold the model: it is tests/integration/test_fast_path.py that has it.
    """
    trainer = SimpleNamespace(
        model=model,
        base_shared_by=1,
        compute_loss_context_manager=contextlib.nullcontext,
        args=SimpleNamespace(device="cpu"),
    )
    meter = Meter(on_gpu=False)
    return find(trainer, train, plan, meter, "float32", wanted=True, held_out=held_out)


def test_held_out_rows_may_be_longer_than_those_that_are_learned() -> None:
    """Their positions are there, too: by PEFT's own loss of the rows."""
    model, longer = make("llama", quantised=False), data(100, 90)
    fast = found(model, data(70, 66), held_out=longer)
    assert fast.model.more_room == fast.meter.lift
    measured = fast.measure(longer)
    assert measured is not None
    batch = rows(100, 90)
    wanted, _ = plain_step(model, batch)
    assert measured.loss == pytest.approx(wanted, rel=1e-5)
    assert measured.tokens == learned(batch)


def test_what_the_longest_step_needs_is_counted() -> None:
    """The batch is cut by the longest rows of a step, not by one row or by all."""
    fast = found(make("llama", quantised=False), data(20, 64, 30, 50))
    assert (fast.longest, fast.batch_tokens) == (64, 64 + 50)


def test_the_probe_tries_the_largest_pass_of_the_fast_path() -> None:
    """The longest row, and as many more as fit beside it: not that row alone."""
    from runner.training.fit.cut import CuttingTrainer

    fast = found(make("llama", quantised=False), data(20, 64, 30, 50))
    fast.model.passes = replace(fast.model.passes, most_tokens=100)
    trainer: Any = SimpleNamespace(fast=fast, args=SimpleNamespace(per_device_train_batch_size=4))
    assert CuttingTrainer.worst_rows(trainer, [20, 64, 30, 50]) == [1, 2]


def test_packed_rows_are_as_long_as_each_is() -> None:
    """Not as their sequence: no pass is made larger for it, and no smaller one is ruled out."""
    joined = data(64, 50).add_column("seq_lengths", [[24, 40], [10, 40]])
    fast = found(make("llama", quantised=False), joined)
    assert (fast.longest, fast.batch_tokens) == (40, 64 + 50)


def test_what_computes_otherwise_takes_the_plain_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check at set-up has the last word, and leaves no gradient; the log says what was off."""
    model = make("llama", quantised=False)
    assert found(model, data(64, 50)) is not None
    assert all(weight.grad is None for weight in model.parameters())
    monkeypatch.setattr(recognise_block, "_gate", lambda _: Gate.GELU)
    assert found(make("llama", quantised=False), data(64, 50)) is None
    assert "something that computes otherwise (layer" in capsys.readouterr().out


@pytest.mark.parametrize(("kept", "taken"), [(None, False), (0, True)])
def test_activations_in_the_hosts_memory(kept: int | None, taken: bool) -> None:  # noqa: FBT001
    """The plain path's way is not the fast one's; the fast path's own is."""
    plan = PLAN.model_copy(
        update={"activation_offloading": True, "layers_kept": kept, "tokens_per_pass": 64}
    )
    fast = found(make("llama", quantised=False), data(64, 64), plan)
    assert (fast is not None) is taken
    assert fast is None or fast.model.passes.on_host


def test_a_card_that_computes_otherwise_takes_the_plain_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kernels are for bf16; Turing has fp16."""
    monkeypatch.setattr(fast_path.gpu, "triton", object())
    assert fast_path._obstacle(PLAN, "bfloat16", on_gpu=True) is None
    assert "float16" in str(fast_path._obstacle(PLAN, "float16", on_gpu=True))
    monkeypatch.setattr(fast_path.gpu, "triton", None)
    assert "Triton" in str(fast_path._obstacle(PLAN, "bfloat16", on_gpu=True))


class Card(Meter):
    """A card by its limits alone: there is none here, and torch says that nothing is allocated."""

    def __init__(self) -> None:
        """Begin without a limit."""
        super().__init__(on_gpu=False)
        self.on_gpu, self.confined = True, 0

    def confine(self, allocator_bytes: int | None) -> None:
        """Note the limit."""
        self.confined = allocator_bytes or 0


@pytest.mark.parametrize("on_host", [False, True])
def test_the_allocator_may_have_all_that_the_plan_takes(on_host: bool) -> None:  # noqa: FBT001
    """By hand: weights that stay unpacked, the optimizer's moments, and the highest point."""
    parts = recognise(make("llama"), dtype=torch.float32, longest=64)
    passes = Passes(most_tokens=1, layers_kept=None, budget_bytes=None, chunk=1)
    model, card = FastModel(parts=parts, passes=passes), Card()
    fast = FastPath(model=model, longest=4096, batch_tokens=8192, budget_bytes=2**40, meter=card)
    plan = PLAN.model_copy(
        update={
            "tokens_per_pass": 64 if on_host else 4096,
            "layers_kept": 3,
            "layers_unpacked": 2,
            "activation_offloading": on_host,
        }
    )
    fast.take(plan)
    now = fast.model.passes
    assert now.on_host is on_host
    assert now.layers_unpacked == (0 if on_host else 2)
    peak = peak_bytes(model.sizes, now.most_tokens, 3, now.chunk)
    if on_host:
        assert long_bytes(model.sizes, 4096, now.chunk) > peak
        peak = long_bytes(model.sizes, 4096, now.chunk)
    trained = sum(w.numel() for w in parts.adapter.weights)
    unpacked = now.layers_unpacked * model.sizes.unpacked
    wanted = MOST_HOLES * (MOMENTS * trained + peak) + unpacked
    assert card.confined == pytest.approx(wanted, rel=1e-6)
    assert fast.in_force(plan).layers_unpacked == now.layers_unpacked
    assert fast.in_force(plan).layers_kept == 3


def test_a_table_of_words_that_moved_leaves_its_room_to_passes() -> None:
    """By hand: 300 words of 64 numbers in fp32."""
    parts = recognise(make("llama"), dtype=torch.float32, longest=64)
    passes = Passes(most_tokens=1, layers_kept=None, budget_bytes=None, chunk=1)
    known = {"longest": 64, "batch_tokens": 128, "budget_bytes": 2**30, "meter": Card()}
    fast = FastPath(model=FastModel(parts=parts, passes=passes), **known)
    plan = PLAN.model_copy(update={"tokens_per_pass": 64, "layers_kept": 0})
    for moved, room in ((False, 2**30), (True, 2**30 + 300 * 64 * 4)):
        fast.take(plan.model_copy(update={"embedding_on_host": moved}))
        now = fast.model.passes
        assert now.embedding_on_host is moved
        assert (now.budget_bytes or 0) + now.layers_unpacked * fast.model.sizes.unpacked == room


def test_a_base_that_cards_share_keeps_nothing_unpacked() -> None:
    """A layer that is sent for is not kept, whatever the room."""
    parts = recognise(make("llama"), dtype=torch.float32, longest=64)
    passes = Passes(most_tokens=1, layers_kept=None, budget_bytes=None, chunk=1)
    for shares, stay in ((False, 3), (True, 0)):
        fast = FastPath(
            model=FastModel(parts=parts, passes=passes),
            longest=64,
            batch_tokens=128,
            budget_bytes=2**40,
            meter=Card(),
            shares_base=shares,
        )
        fast.take(PLAN)
        assert fast.model.passes.layers_unpacked == stay


@pytest.mark.parametrize(("kept", "flags"), [(0, [0, 0, 0]), (1, [0, 0, 1]), (None, [1, 1, 1])])
def test_the_last_layers_keep_everything(
    kept: int | None, flags: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as the plan says: one more, and the card's memory is another than was forecast."""
    real, seen = fast_model.LayerFunction, []

    def apply(x: Any, layer: Any, laid: Any, keep: bool) -> Any:  # noqa: FBT001
        seen.append(int(keep))
        return real.apply(x, layer, laid, keep)

    parts = recognise(make("llama", quantised=False), dtype=torch.float32, longest=64)
    passes = Passes(most_tokens=64, layers_kept=kept, budget_bytes=None, chunk=16)
    one = FastModel(parts=parts, passes=passes)
    monkeypatch.setattr(fast_model, "LayerFunction", SimpleNamespace(apply=apply))
    one.train_on(rows(64), 59)
    assert seen == flags


def test_the_base_is_measured_beside_weights_that_stay_unpacked() -> None:
    """Their B lies beside them: once the adapter is silent, none of it is left."""
    model, batch = make("llama"), rows(64, 40)
    parts = recognise(model, dtype=torch.float32, longest=64)
    passes = Passes(most_tokens=200, layers_kept=0, budget_bytes=None, chunk=16)
    one = FastModel(parts=parts, passes=passes)
    parts.keep_unpacked(3)
    adapted = float(one.measure(batch).sum()) / learned(batch)
    parts.adapter.silence()
    base = float(one.measure(batch).sum()) / learned(batch)
    assert adapted == pytest.approx(plain_step(model, batch)[0], rel=1e-5)
    with model.disable_adapter(), torch.no_grad():
        wanted = sum(
            float(
                torch.nn.functional.cross_entropy(
                    model(input_ids=ids[None]).logits[0, :-1], labels[1:], reduction="sum"
                )
            )
            for ids, labels in batch
        )
    assert base == pytest.approx(wanted / learned(batch), rel=1e-5)
    assert base != pytest.approx(adapted, rel=3e-5)


def test_a_stop_is_looked_for_between_passes() -> None:
    """Not before the first one and not after the last one; it ends the step."""
    parts = recognise(make("llama", quantised=False), dtype=torch.float32, longest=64)
    passes = Passes(most_tokens=64, layers_kept=0, budget_bytes=None, chunk=16)
    calls: list[int] = []
    one = FastModel(parts=parts, passes=passes, between_passes=lambda: calls.append(1))
    one.train_on(rows(64, 40, 50), 100)
    assert len(calls) == 2
    one.train_on(rows(64), 59)
    assert len(calls) == 2

    def stop() -> None:
        raise Interrupted

    one.between_passes = stop
    with pytest.raises(Interrupted):
        one.train_on(rows(64, 40), 100)


@pytest.mark.parametrize("times", [1, 2])
def test_holes_in_memory_end_no_step_where_the_card_has_room(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that ran out of the memory it was confined to is done again: the same gradients."""
    model, batch = make("llama", quantised=False), rows(40, 50)
    parts = recognise(model, dtype=torch.float32, longest=64)
    passes = Passes(most_tokens=64, layers_kept=0, budget_bytes=None, chunk=16)
    wanted_loss, wanted = plain_step(model, batch)
    real, fails, asked = HeadLoss.apply, [False, True, True][: times + 1], []

    def out_of_memory(*words: Any) -> Any:
        if fails and fails.pop(0):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1002.00 MiB.")
        return real(*words)

    def more_room() -> bool:
        asked.append(1)
        return len(asked) == 1

    monkeypatch.setattr(HeadLoss, "apply", out_of_memory)
    one = FastModel(parts=parts, passes=passes, more_room=more_room)
    if times == 2:  # the card itself is full
        with pytest.raises(torch.OutOfMemoryError):
            one.train_on(batch, learned(batch))
        return
    assert float(one.train_on(batch, learned(batch))) == pytest.approx(wanted_loss, rel=1e-5)
    for name, grad in take_grads(model).items():
        torch.testing.assert_close(grad, wanted.pop(name), rtol=1e-4, atol=1e-6)
    assert not wanted
    assert len(asked) == 1


def test_what_an_allocator_may_have_is_widened_once_and_never_above_the_cap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Confined to 8 of 24 GiB with a cap of 16: 16 from then on, and then no more."""
    gib = 2**30
    given: list[float] = []
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=24 * gib)
    )
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", given.append)
    meter = Meter(on_gpu=False, cap_bytes=16 * gib)
    meter.on_gpu = True
    assert not meter.lift()  # nothing was confined
    meter.confine(8 * gib)
    assert meter.lift()
    assert not meter.lift()
    meter.confine(8 * gib)  # the next plan's
    assert given == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    meter.confine(20 * gib)
    assert not meter.lift()


def test_each_projection_drops_by_a_key_of_its_own() -> None:
    """Of all layers of a large model: two that shared one would drop the same numbers."""
    draws = dropout.Draws(seed=5)
    keys = {draws.key(group, number) for group in range(4 * 80) for number in range(3)}
    assert len(keys) > 0.999 * 4 * 80 * 3  # of 32 bits a pair may agree by chance


def merged(model: Any) -> None:
    """Add the adapter to the weights."""
    model.merge_adapter()


def bias_behind(model: Any) -> None:
    """Give every B a bias, as `lora_bias` does; an adapter that is measured is frozen."""
    for name, module in model.named_modules():
        if name.endswith("lora_B.default"):
            ones = torch.ones(module.out_features)
            module.bias = torch.nn.Parameter(ones, requires_grad=False)


def head_in_fp16(model: Any) -> None:
    """Compute the head in another format."""
    model.get_output_embeddings().to(torch.float16)


def head_with_bias(model: Any) -> None:
    """Give the head a bias."""
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.ones(head.out_features), requires_grad=False)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (merged, "another kind of adapter"),
        (bias_behind, "another kind of adapter"),
        (head_in_fp16, "a head in float16"),
        (head_with_bias, "its head"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(change: Any, why: str) -> None:
    """An adapter that is in the weights already, and heads that the loss does not know."""
    model = make("llama", quantised=False)
    change(model)
    with pytest.raises(NotRecognised, match=why):
        recognise(model, dtype=torch.float32, longest=64)


@pytest.mark.parametrize(
    ("family", "settings", "why"),
    [
        ("llama", {"attention_dropout": 0.1}, "dropout in attention"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "attention to later words"),
        ("llama", {"attention_chunk_size": 32}, "attention in chunks"),
        ("phi3", {"resid_pdrop": 0.1}, "^dropout$"),
    ],
)
def test_settings_that_no_layer_shows_are_refused(
    family: str, settings: dict[str, Any], why: str
) -> None:
    """In the config alone; rows that end within the first chunk are taken."""
    model = make(family, quantised=False, **settings)
    with pytest.raises(NotRecognised, match=why):
        recognise(model, dtype=torch.float32, longest=64)
    if "chunks" in why:
        assert recognise(model, dtype=torch.float32, longest=32)


@pytest.mark.parametrize(
    ("own", "config", "wanted"),
    [
        ({"sliding_window": 16}, {}, 16),
        ({"sliding_window": None}, {"sliding_window": 16}, None),
        ({}, {"sliding_window": 16}, 16),
        ({}, {}, None),
    ],
)
def test_a_layer_s_own_window_comes_first(
    own: dict[str, Any], config: dict[str, Any], wanted: int | None
) -> None:
    """Where no kinds are named, as in code that comes with a model: the check sees 96 tokens."""
    attention, settings = SimpleNamespace(**own), SimpleNamespace(layer_types=None, **config)
    assert _window(attention, settings, 0) == wanted


def test_dora_is_refused() -> None:
    """It scales weights by their norms, which the fast path does not; also once it is frozen."""
    from peft import LoraConfig, get_peft_model

    plain = make("llama", quantised=False).unload()
    model = get_peft_model(plain, LoraConfig(task_type="CAUSAL_LM", r=4, use_dora=True))
    model.requires_grad_(False)
    with pytest.raises(NotRecognised, match="another kind of adapter"):
        recognise(model, dtype=torch.float32, longest=64)
