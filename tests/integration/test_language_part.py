"""Trains the language part of models that also read pictures, beside the whole model by itself."""

import gc
import json
import warnings

import pytest
from picture_models import PICTURES, rename_keys, save_whole
from plain_peft import largest_error, random_rows, row_by_row, stir, take_gradients
from test_architectures import ROUNDING, product_trainer, spec_with

from runner.contract.model_kind import LANGUAGE_PARTS, kind_problem, language_part
from runner.errors import ModelError

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, of many families
TRAINED = [family for family in PICTURES if family != "aya_vision"]
ROWS = random_rows([20, 13, 9, 16])


def text_ids():
    """Give one row of text."""
    import torch

    return torch.tensor([ROWS[0]["input_ids"]])


def logits(model):
    """Give a model's answer to the row."""
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=text_ids(), use_cache=False).logits


def load(folder, method="lora", *, whole=False):
    """Load a base as the product does."""
    from runner.training.fit.model import find_machine, load_base

    return load_base(folder, method=method, machine=find_machine("cpu", "float32"), whole=whole)


def adapted(folder, method="lora", text=""):
    """Give the language part with an adapter that does something."""
    from runner.training.fit.model import add_adapter

    spec = spec_with(text)
    model = add_adapter(load(folder, method), spec.model_copy(update={"method": method}))
    stir(model)
    return model


def hand_over(model, base, folder):
    """Write an adapter's files as the export stage does, and give its folder."""
    from runner.training.export.adapter_config import hand_over_config
    from runner.training.export.adapter_weights import copy_weights

    part = language_part(json.loads((base / "config.json").read_text()))
    model.save_pretrained(folder / "checkpoint")
    adapter = folder / "adapter"
    adapter.mkdir()
    copy_weights(
        folder / "checkpoint" / "adapter_model.safetensors",
        adapter / "adapter_model.safetensors",
        part,
    )
    written = json.loads((folder / "checkpoint" / "adapter_config.json").read_text())
    config = hand_over_config(written, base="m", part=part)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    return adapter


def on_whole(whole, adapter, **how):
    """Put an adapter on a whole model with plain PEFT; none of its weights may be left over."""
    from peft import PeftModel

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(whole, adapter, **how)
    assert not [one for one in said if "missing" in str(one.message).lower()]
    return model


@pytest.mark.parametrize("family", TRAINED)
def test_the_adapter_does_on_the_whole_model_what_it_did_in_training(family, tmp_path):
    """Bit for bit: the language part alone, and whole with the adapter, as people load them."""
    import torch
    from transformers import AutoModelForImageTextToText

    wanted = logits(save_whole(family, tmp_path / "m"))
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert kind_problem("m", config) is None
    assert torch.equal(logits(load(tmp_path / "m")), wanted)
    model = adapted(tmp_path / "m")
    trained = logits(model)
    assert (trained - wanted).abs().max() > 0.1
    adapter = hand_over(model, tmp_path / "m", tmp_path)
    whole = AutoModelForImageTextToText.from_pretrained(tmp_path / "m")
    found = on_whole(whole, adapter)
    assert torch.equal(logits(found), trained)
    layers = [name for name, _ in found.named_parameters() if "lora_" in name]
    assert len(layers) == sum("lora_" in name for name, _ in model.named_parameters())
    assert all(LANGUAGE_PARTS[config["architectures"][0]].path in name for name in layers)


@pytest.mark.parametrize(
    ("family", "sizes"),
    [("gemma3", {}), ("qwen3_5", {}), ("mistral3", {"num_hidden_layers": 4})],
)
def test_four_bits_give_the_same_on_the_whole_model(family, sizes, tmp_path):
    """QLoRA: the whole is quantised as its language part was."""
    import torch

    save_whole(family, tmp_path / "m", **sizes)
    model = adapted(tmp_path / "m", "qlora")
    trained = logits(model)
    adapter = hand_over(model, tmp_path / "m", tmp_path)
    targets = json.loads((adapter / "adapter_config.json").read_text())["target_modules"]
    assert ("layers" in targets) == (not sizes)  # of many layers PEFT gives the short names
    whole = load(tmp_path / "m", "qlora", whole=True)
    assert torch.equal(logits(on_whole(whole, adapter)), trained)


@pytest.mark.parametrize(
    "family", ["gemma3", "gemma4", "qwen3_5", "llama4", "mistral3", "idefics3"]
)
def test_gradients_are_those_of_plain_peft_on_the_whole_model(family, tmp_path):
    """Padded and cut, against each row alone through the whole model's own logits."""
    import torch
    from transformers import AutoModelForImageTextToText

    from runner.training.export.adapter_weights import in_whole
    from runner.training.fit.model import find_machine

    save_whole(family, tmp_path / "m")
    model = adapted(tmp_path / "m")
    part = language_part(json.loads((tmp_path / "m" / "config.json").read_text()))
    adapter = hand_over(model, tmp_path / "m", tmp_path)
    whole = AutoModelForImageTextToText.from_pretrained(tmp_path / "m")
    loss, wanted = row_by_row(on_whole(whole, adapter, is_trainable=True), ROWS)
    trainer = product_trainer(model, find_machine("cpu", "float32"), tmp_path)
    learned = torch.tensor(sum(label != -100 for row in ROWS for label in row["labels"][1:]))
    for tokens in (None, 40):
        trainer.batch_plan = trainer.batch_plan.model_copy(update={"tokens_per_pass": tokens})
        found = trainer.training_step(model, trainer.data_collator(ROWS), learned)
        assert float(found) == pytest.approx(loss, abs=1e-4)
        gradients = {in_whole(name, part): grad for name, grad in take_gradients(model).items()}
        bound = 1e-4 if family == "qwen3_5" else ROUNDING  # its kernel reads in chunks
        assert largest_error(gradients, wanted) < bound
        assert all(gradient.abs().max() > 0 for gradient in gradients.values())


@pytest.mark.parametrize(
    ("family", "old", "new"),
    [
        ("gemma3", "language_model.model.", "model.language_model."),
        ("mistral3", "language_model.model.", "model.language_model."),
        ("llava", "language_model.model.", "model.language_model."),
    ],
)
def test_both_layouts_of_weight_files_are_read(family, old, new, tmp_path):
    """The hub's first files, and those that later versions of transformers saved."""
    import torch

    wanted = logits(save_whole(family, tmp_path / "m"))
    assert rename_keys(tmp_path / "m", old, new)
    head = "language_model.lm_head."
    assert rename_keys(tmp_path / "m", head, "lm_head.") or family == "gemma3"
    assert torch.equal(logits(load(tmp_path / "m")), wanted)


@pytest.mark.parametrize("family", ["gemma3", "gemma4", "qwen3_5", "smolvlm", "lfm2_vl"])
def test_a_head_that_is_the_table_of_words_stays_so(family, tmp_path):
    """The weight files have it once, and nothing counts as missing."""
    import torch

    wanted = logits(save_whole(family, tmp_path / "m", tied=True))
    text = load(tmp_path / "m")
    assert torch.equal(logits(text), wanted)
    assert text.get_output_embeddings().weight is text.get_input_embeddings().weight


def test_what_reads_pictures_is_let_go(tmp_path):
    """The forecast counts the language part alone: nothing else may stay in memory."""
    import torch

    save_whole("internvl", tmp_path / "m")
    gc.collect()
    before = {id(one) for one in gc.get_objects() if isinstance(one, torch.nn.Parameter)}
    text = load(tmp_path / "m")
    left = {id(one) for one in gc.get_objects() if isinstance(one, torch.nn.Parameter)} - before
    assert left == {id(weight) for weight in text.parameters()}


def test_weights_that_are_missing_are_never_made_up(tmp_path):
    """Transformers would draw them at random and go on with a warning."""
    save_whole("gemma3", tmp_path / "m")
    layer = "language_model.model.layers.1.self_attn.q_proj."
    assert rename_keys(tmp_path / "m", layer, "language_model.model.layers.1.self_attn.other.")
    with pytest.raises(ModelError, match=r"lack 1 of the model's weights, .*q_proj.weight first"):
        load(tmp_path / "m")


def test_a_language_part_that_answers_otherwise_is_refused(tmp_path, monkeypatch):
    """Aya Vision as a whole does not scale its logits, and Cohere's class for text does."""
    save_whole("aya_vision", tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert "answers with other numbers" in kind_problem("m", config).message
    name = "AyaVisionForConditionalGeneration"
    monkeypatch.setitem(LANGUAGE_PARTS, name, LANGUAGE_PARTS["LlavaForConditionalGeneration"])
    with pytest.raises(ModelError, match="alone it answers with other numbers than the whole"):
        load(tmp_path / "m")


@pytest.mark.parametrize("family", ["gemma3", "qwen3_5_moe", "llama4"])
def test_prepare_counts_what_will_be_trained(family, tmp_path):
    """Without weights: the language part alone, and layers that it lacks are refused."""
    from runner.training.data.try_model import try_model

    save_whole(family, tmp_path / "m")
    tried = try_model(tmp_path / "m", spec_with(), longest=20)
    trainable = (w.numel() for w in adapted(tmp_path / "m").parameters() if w.requires_grad)
    assert tried.trainable_parameters == sum(trainable)
    assert tried.embedding_rows == 128
    spec = spec_with("lora: {target_modules: [q_proj, fc1]}")
    with pytest.raises(ModelError, match="no layer named fc1"):
        try_model(tmp_path / "m", spec, longest=20)


def test_named_layers_are_found_in_the_language_part_alone(tmp_path):
    """Gemma 3's eyes have a q_proj, too; it gets no adapter, in training or in use."""
    save_whole("gemma3", tmp_path / "m")
    model = adapted(tmp_path / "m", text="lora: {target_modules: [self_attn.q_proj, v_proj]}")
    adapter = hand_over(model, tmp_path / "m", tmp_path)
    found = on_whole(load(tmp_path / "m", whole=True), adapter)
    layers = {name.split(".lora_")[0] for name, _ in found.named_parameters() if "lora_" in name}
    prefix = "base_model.model.model.language_model.layers"
    names = ("self_attn.q_proj", "self_attn.v_proj")
    assert layers == {f"{prefix}.{n}.{name}" for n in (0, 1) for name in names}
