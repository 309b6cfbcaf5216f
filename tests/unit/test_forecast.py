"""The forecast's arithmetic against the stack itself, and the plans it chooses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.contract.batch import BatchPlan
from runner.forecast.choose import alternatives, choose
from runner.forecast.forecast import forecast
from runner.forecast.lengths import Lengths
from runner.forecast.model_shape import DEFAULTS, read_shape
from runner.forecast.work import GIB, Box, Work

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}


def work(config: dict[str, Any] = LLAMA_8B, **changes: Any) -> Work:
    """Describe a run of 800 contracts on a model."""
    shape = read_shape(config)
    assert shape is not None
    given = {
        "shape": shape,
        "method": "qlora",
        "rank": 16,
        "target_modules": "all-linear",
        "dropout": 0.0,
        "lengths": tuple(300 + 7 * i % 1700 for i in range(800)),
        "effective_batch_size": 16,
        "total_steps": 100,
    }
    given |= changes
    if not isinstance(given["lengths"], Lengths):
        given["lengths"] = Lengths.of(given["lengths"])
    return Work(**given)


def plan(batch: int, *, effective: int = 16, checkpointing: bool = False) -> BatchPlan:
    """Cut an effective batch."""
    return BatchPlan(
        per_device_batch_size=batch,
        gradient_accumulation_steps=effective // batch,
        activation_checkpointing=checkpointing,
    )


def test_sizes_of_a_known_model() -> None:
    """Llama 3 8B has the parameters that its makers name, and so has its adapter."""
    known = work()
    assert known.shape.parameters == 8_030_261_248
    assert known.adapter_parameters == 41_943_040  # rank 16 on all linear layers, as PEFT prints


def test_a_config_of_an_unknown_kind_has_no_forecast() -> None:
    """Nothing is guessed where a config does not name its sizes."""
    assert read_shape({"architectures": ["OddForCausalLM"]}) is None


@pytest.mark.parametrize("family", sorted(DEFAULTS))
def test_sizes_that_a_config_leaves_out_are_those_of_its_class(family):
    """Text parts on the hub say little more than what differs from them."""
    from transformers import CONFIG_MAPPING

    known = CONFIG_MAPPING[family]().to_dict()
    assert {name: known[name] for name in DEFAULTS[family]} == DEFAULTS[family]


def test_a_picture_reader_counts_as_its_language_part():
    """Gemma 3 4B as it lies on the hub: 3.88 billion weights read and write text."""
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
    }
    eyes = {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16}
    shape = read_shape({"model_type": "gemma3", "text_config": text, "vision_config": eyes})
    assert shape.layers == 34
    assert round(shape.parameters / 1e9, 2) == 3.88
    small = read_shape({"text_config": {**text, "model_type": "gemma4_text"}})
    assert small.parameters - shape.parameters > 34 * 256 * 260_000  # a table of words a layer


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks
@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_kept_activations_are_counted_right(method: str, tmp_path: Path) -> None:
    """What one more block keeps for the backward pass is what the formula says, within 1%."""
    one, two = (_kept_bytes(method, layers, tmp_path / f"{layers}") for layers in (1, 2))
    shape = read_shape(json.loads((tmp_path / "2" / "config.json").read_text()))
    assert shape is not None
    small = work(json.loads((tmp_path / "2" / "config.json").read_text()), method=method)
    from runner.forecast.memory import _kept_per_token

    adapters = small.adapter_parameters // shape.layers * 2  # their copies in 16 bits
    assert two - one - adapters == pytest.approx(
        512 * _kept_per_token(small, on_card=False), rel=0.01
    )


def _kept_bytes(method: str, layers: int, folder: Path) -> int:
    """Count the bytes that autograd keeps of a batch of 2 × 256, each tensor once."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from runner.spec.read_spec import read_spec
    from runner.training.fit.model import Machine, add_adapter, load_base, use_fp32_adapters

    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=384,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=layers,
        vocab_size=64,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    spec = read_spec(f"model: m\ndata: a.jsonl\nmethod: {method}\n".encode(), file_name="a.yaml")
    base = load_base(folder, method=method, machine=Machine(device="cpu", compute="bfloat16"))
    model = add_adapter(base, spec)
    use_fp32_adapters(model)
    model.train()
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        model.get_base_model().model(input_ids=torch.zeros(2, 256, dtype=torch.long))
    return sum(storage.nbytes() for storage in kept.values())


def test_more_costs_more() -> None:
    """A larger batch, longer rows, no checkpointing and 16 bits each need more memory."""
    box = Box()
    base = forecast(work(), plan(2, checkpointing=True), box).gpu_memory_bytes
    assert forecast(work(), plan(4, checkpointing=True), box).gpu_memory_bytes > base
    assert forecast(work(), plan(2), box).gpu_memory_bytes > base
    longer = work(lengths=(4096,) * 800)
    assert forecast(longer, plan(2, checkpointing=True), box).gpu_memory_bytes > base
    plain = work(method="lora")
    assert forecast(plain, plan(2, checkpointing=True), box).gpu_memory_bytes > base + 8 * GIB


def test_the_parts_are_the_whole() -> None:
    """Before anything was learned, the parts that a user reads add up to what is forecast."""
    found = forecast(work(), plan(4), Box())
    assert found.gpu_memory.total == pytest.approx(found.gpu_memory_bytes, abs=8)


def test_what_was_learned_leaves_weights_alone() -> None:
    """A lesson of this box moves what can be wrong, not the weights' size."""
    told = Box(learned_memory={"qlora, checkpointing off": 1.2})
    before, after = (forecast(work(), plan(1), box) for box in (Box(), told))
    steady = before.gpu_memory.weights + before.gpu_memory.context
    assert after.gpu_memory_bytes - steady == pytest.approx(
        1.2 * (before.gpu_memory_bytes - steady), rel=1e-6
    )
    checkpointed = plan(1, checkpointing=True)  # another kind of run: no lesson for it
    assert forecast(work(), checkpointed, told) == forecast(work(), checkpointed, Box())


@pytest.mark.parametrize("gib", [12, 16, 24, 48, 80])
def test_the_plan_chosen_fits_and_cuts_the_same_batch(gib: int) -> None:
    """On every card the first plan fits the forecast, and the effective batch is untouched."""
    chosen = choose(work(), Box(gpu_memory_bytes=gib * GIB))
    assert chosen.fits
    assert chosen.batch_plan.effective_batch_size == 16


def test_a_plan_that_nearly_fills_the_card_is_not_chosen() -> None:
    """6% of the memory stay free: on another card and driver the forecast may be off by more."""
    free = choose(work(), Box(gpu_memory_bytes=80 * GIB))
    for share, is_chosen in ((0.93, True), (0.95, False)):
        limit = int(free.gpu_memory_bytes / share)
        found = choose(work(), Box(budget_bytes=limit))
        assert (found.batch_plan == free.batch_plan) is is_chosen
        assert found.gpu_memory_bytes <= 0.94 * limit


def test_a_card_that_is_too_small_gets_the_smallest_plan() -> None:
    """Where nothing fits, the run starts with everything on: a forecast can be wrong."""
    chosen = choose(work(lengths=(65536,) * 20), Box(gpu_memory_bytes=8 * GIB))
    assert chosen.fits is False
    assert chosen.batch_plan.per_device_batch_size == 1
    assert chosen.batch_plan.activation_offloading


def test_what_a_spec_says_is_kept() -> None:
    """A batch size is a limit, and a switch that was set stays as it is."""
    box = Box(gpu_memory_bytes=80 * GIB)
    chosen = choose(work(), box, batch_size=2, checkpointing=False).batch_plan
    assert chosen.per_device_batch_size <= 2
    assert not chosen.activation_checkpointing


def test_alternatives_name_what_does_not_fit() -> None:
    """A person sees which batches fit their card and which do not."""
    found = alternatives(work(), Box(gpu_memory_bytes=24 * GIB))
    assert {one.fits for one in found} == {True, False}
    assert {one.batch_plan.per_device_batch_size for one in found} == {1, 2, 4, 8, 16}


def test_one_long_row_does_not_make_every_pass_small() -> None:
    """A long row among short ones limits the tokens at once, not the batch of all other steps."""
    llama_1b = {
        **LLAMA_8B,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "head_dim": 64,
        "tie_word_embeddings": True,
    }
    lengths = (8192, *sorted((400 + 7 * i % 200 for i in range(319)), reverse=True))
    box = Box(gpu_memory_bytes=80 * GIB, budget_bytes=14 * GIB, flops=990e12)
    chosen = choose(work(llama_1b, lengths=lengths), box, checkpointing=True)
    assert chosen.fits
    assert chosen.batch_plan.per_device_batch_size == 16
    limit = chosen.batch_plan.tokens_per_pass
    assert limit is not None
    assert 8192 <= limit < 16 * 8192
    whole = chosen.batch_plan.model_copy(update={"tokens_per_pass": None})
    assert not forecast(work(llama_1b, lengths=lengths), whole, box).fits


def test_pythia_is_as_large_as_it_is() -> None:
    """Its MLP has no gate: 6.86 billion weights, not 9."""
    shape = read_shape(
        {
            "model_type": "gpt_neox",
            "hidden_size": 4096,
            "intermediate_size": 16384,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 50432,
            "tie_word_embeddings": False,
        }
    )
    assert shape is not None
    assert round(shape.parameters / 1e9, 2) == 6.86
