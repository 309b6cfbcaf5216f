"""Trains tiny models of many families with the product's trainer, against plain PEFT by rows."""

import pytest
from plain_peft import (
    FAMILIES,
    largest_error,
    random_rows,
    row_by_row,
    save_tiny,
    save_words,
    stir,
    take_gradients,
)

from runner.contract.batch import BatchPlan
from runner.contract.layout import StageFolder
from runner.contract.stage_io import TrainPlan
from runner.errors import ModelError
from runner.spec.read_spec import read_spec

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, of many families
ROUNDING = 1e-5  # of a gradient in fp32; faults start at 4e-4 (architectures measured in 2026)
ROWS = random_rows([20, 13, 9, 16])


def spec_with(text=""):
    """Give a spec with the defaults and these lines."""
    content = f"model: m\ndata: d.jsonl\nmethod: lora\n{text}\n"
    return read_spec(content.encode(), file_name="job.yaml")


def adapted(family, folder, spec=None, **more):
    """Give the product's model of a tiny base of this family, and its machine."""
    from transformers import set_seed

    from runner.training.fit.model import add_adapter, find_machine, load_base

    machine = find_machine("cpu", "float32")
    save_tiny(family, folder / "m", **more)
    set_seed(1)
    return add_adapter(
        load_base(folder / "m", method="lora", machine=machine), spec or spec_with()
    ), machine


def product_trainer(model, machine, folder, spec=None, **plan):
    """Build the train stage's own trainer around a model."""
    from datasets import Dataset
    from transformers import TrainerCallback

    from runner.training.fit.build_trainer import build_trainer
    from runner.training.fit.collator import RowNotingCollator
    from runner.training.fit.model import use_fp32_adapters

    conduct = TrainerCallback()
    conduct.folder = StageFolder(folder / "attempt")
    how = BatchPlan(per_device_batch_size=len(ROWS), gradient_accumulation_steps=1, **plan)
    trainer = build_trainer(
        model,
        save_words(folder / "tokenizer"),
        Dataset.from_list(ROWS),
        spec=spec or spec_with(),
        plan=TrainPlan(models_dir=str(folder), number=1, batch_plan=how, total_steps=1),
        machine=machine,
        conduct=conduct,
    )
    trainer.data_collator = RowNotingCollator(trainer.data_collator)
    use_fp32_adapters(trainer.model)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


@pytest.mark.parametrize("family", list(FAMILIES))
def test_gradients_are_those_of_plain_peft(family, tmp_path):
    """Padded, cut by tokens, with router, cap, window and dropout: what each row alone gives."""
    import torch

    model, machine = adapted(family, tmp_path)
    trainer = product_trainer(model, machine, tmp_path)
    stir(model)
    loss, wanted = row_by_row(model, ROWS)
    learned = torch.tensor(sum(label != -100 for row in ROWS for label in row["labels"][1:]))
    for tokens in (None, 40):
        trainer.batch_plan = trainer.batch_plan.model_copy(update={"tokens_per_pass": tokens})
        found = trainer.training_step(model, trainer.data_collator(ROWS), learned)
        assert float(found) == pytest.approx(loss, abs=1e-4)
        gradients = take_gradients(model)
        assert largest_error(gradients, wanted) < ROUNDING
        assert all(gradient.abs().max() > 0 for gradient in gradients.values())


def test_the_set_up_check_passes_and_leaves_no_trace(tmp_path):
    """Weights, random state, gradients and counters are as if it had not been."""
    import torch

    from runner.training.fit.set_up_check import check_set_up, look

    spec = spec_with("lora: {dropout: 0.5}")
    model, machine = adapted("llama", tmp_path, spec)
    trainer = product_trainer(model, machine, tmp_path, spec)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    check_set_up(trainer, trainer.train_dataset, compute="float32")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert not trainer._metrics["train"]
    assert trainer._total_train_tokens == 0
    assert model.training
    found = look(trainer, trainer.train_dataset)
    assert found.product == pytest.approx(found.plain, rel=1e-5)
    assert set(found.with_gradient) >= {"q_proj", "down_proj"}


def refusal(trainer):
    """Give what the set-up check says of a trainer."""
    from runner.training.fit.set_up_check import check_set_up

    with pytest.raises(ModelError) as caught:
        check_set_up(trainer, trainer.train_dataset, compute="float32")
    return caught.value.problems[0]


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("mixtral", {"output_router_logits": False, "router_aux_loss_coef": 0.0}),
        ("phimoe", {"router_jitter_noise": 0.0}),
        ("gpt2", {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
        ("opt", {"dropout": 0.0}),
    ],
)
def test_what_a_base_would_add_of_its_own_is_off_in_its_config(family, settings, tmp_path):
    """By chance or once a pass: neither belongs to a loss that is the same at any batch plan."""
    from transformers import AutoConfig

    from runner.training.fit.base_config import training_config

    save_tiny(family, tmp_path / "m")
    own = AutoConfig.from_pretrained(tmp_path / "m")
    assert all(getattr(own, name) != value for name, value in settings.items())
    found = training_config(tmp_path / "m")
    assert {name: getattr(found, name) for name in settings} == settings


def test_dropout_layers_that_no_config_names_are_off():
    """A layer of dropout in a model's code, made with a rate of its own."""
    import torch

    from runner.training.fit.model import silence

    layers = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5)).train()
    silence(layers)
    ones = torch.ones(1, 8)
    assert torch.equal(layers(ones), layers(ones))
    assert bool(layers(ones).all())


def test_a_head_that_leaves_out_a_cap_is_found(tmp_path, monkeypatch):
    """TRL's head without the fix: the losses differ, and the run ends before it learns wrong."""
    monkeypatch.setattr("runner.training.fit.head.mend_head", lambda base: True)
    model, machine = adapted("recurrent_gemma", tmp_path)
    said = refusal(product_trainer(model, machine, tmp_path))
    assert "does not train right here" in said.message


def test_a_cap_that_small_logits_hide_is_found_by_its_name(tmp_path):
    """On the tokens of the comparison both heads agree; on a trained model they would not."""
    from runner.training.fit.head import give_head
    from runner.training.fit.model import find_machine, load_base

    save_tiny("recurrent_gemma", tmp_path / "m", logits_soft_cap=10_000.0)
    base = load_base(tmp_path / "m", method="lora", machine=find_machine("cpu", "float32"))
    assert not give_head(base)


def test_dropout_that_no_config_names_is_found(tmp_path):
    """A model whose own code draws at random in training; what it drew is put back."""
    import torch

    model, machine = adapted("llama", tmp_path)
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    trainer = product_trainer(model, machine, tmp_path)
    state = torch.get_rng_state()
    assert "does not train right here" in refusal(trainer).message
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_that_sees_the_words_it_has_to_learn_is_refused(tmp_path):
    """An encoder with a class that ends in ForCausalLM: its loss would fall to nothing."""
    model, machine = adapted("roberta", tmp_path, is_decoder=False)
    assert "from both sides" in refusal(product_trainer(model, machine, tmp_path)).message


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_model_that_computes_no_numbers_is_refused_as_that(wrong, tmp_path):
    """One weight that is damaged: it is not said that adapters get no gradient."""
    model, machine = adapted("llama", tmp_path)
    model.get_base_model().model.layers[0].mlp.down_proj.base_layer.weight.data[0, 0] = wrong
    said = refusal(product_trainer(model, machine, tmp_path)).message
    assert "computes no numbers here (its loss on one row is nan)" in said


def test_layers_whose_adapter_never_gets_a_gradient_are_named(tmp_path):
    """With the list that trains."""
    spec = spec_with("lora: {target_modules: [in_proj, dt_proj]}")
    model, machine = adapted("mamba", tmp_path, spec)
    said = refusal(product_trainer(model, machine, tmp_path, spec))
    assert said.found == "dt_proj"
    assert said.hint == "Write target_modules: [in_proj]"


@pytest.mark.parametrize(
    ("family", "lora", "said"),
    [
        ("llama", "target_modules: [q_proj, v_porj]", "Did you mean v_proj instead of v_porj?"),
        ("llama", "target_modules: [v_porj]", "its layers are down_proj, gate_proj, k_proj"),
        ("gpt2", "target_modules: [q_proj, v_proj]", "c_attn, c_fc, c_proj"),
        ("llama", "target_modules: [q_proj, all-linear]", "all.linear"),
        ("llama", "target_modules: [q_proj, lm_head]", "lm_head is the layer that chooses words"),
        ("llama", "target_modules: [embed_tokens]", "embed_tokens is the table of words"),
        ("gpt2", "target_modules: [c_attn, wte]", "wte is the table of words"),
        ("llama", "target_modules: [q_proj, input_layernorm]", "no adapter can be put on these"),
        ("mixtral", "target_modules: [q_proj, w1]", "joins w1 and w3 in one layer"),
        ("qwen3_moe", "target_modules: [gate_proj]", "joins gate_proj and up_proj in one layer"),
        ("mixtral", "dropout: 0.1", "experts (MoE) take no dropout"),
        ("mamba", "target_modules: [in_proj, out_proj]", "no adapter can be put on these layers"),
    ],
)
def test_layers_that_cannot_have_an_adapter_are_refused(family, lora, said, tmp_path):
    """Every name must match, and what is there must be adaptable; the reason is given."""
    if "all-linear" in lora:  # the spec refuses it already; who reaches the code is refused, too
        spec = spec_with()
        spec = spec.model_copy(
            update={"lora": spec.lora.model_copy(update={"target_modules": ["all-linear"]})}
        )
        said = "no layer named all-linear"
    else:
        spec = spec_with(f"lora: {{{lora}}}")
    with pytest.raises(ModelError) as caught:
        adapted(family, tmp_path, spec)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("family", "skipped"),
    [("falcon_h1", "out_proj"), ("mamba", "dt_proj"), ("phimoe", "router"), ("doge", "dt_proj")],
)
def test_all_linear_leaves_out_what_cannot_be_trained(family, skipped, tmp_path):
    """Instead of crashing, or of training an adapter that is never used."""
    model, _ = adapted(family, tmp_path)
    adapters = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert adapters
    assert not any(f".{skipped}." in name for name in adapters)


def test_a_base_in_four_bits_of_bitsandbytes_trains_with_qlora(tmp_path):
    """Loaded as it is, computing in what this machine computes in."""
    import torch
    from transformers import AutoModelForCausalLM

    from runner.training.fit.model import add_adapter, find_machine, load_base, nf4

    save_tiny("llama", tmp_path / "m", hidden_size=64, intermediate_size=128)
    packed = AutoModelForCausalLM.from_pretrained(
        tmp_path / "m", quantization_config=nf4("float16"), device_map="cpu"
    )
    packed.save_pretrained(tmp_path / "m4")
    machine = find_machine("cpu", "float32")
    base = load_base(tmp_path / "m4", method="qlora", machine=machine)
    layer = base.model.layers[0].self_attn.q_proj
    assert type(layer).__name__ == "Linear4bit"
    assert layer.compute_dtype == torch.float32
    model = add_adapter(base, spec_with())
    stir(model)
    model(input_ids=torch.arange(3, 20)[None]).logits.sum().backward()
    assert all(grad.abs().max() > 0 for grad in take_gradients(model).values())
