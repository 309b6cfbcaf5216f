"""Judges config.json alone: quantised, pictures, sound, encoders, heads; each refused truly."""

import json
import shutil

import pytest

from runner.commands.validate import validate
from runner.contract.model_kind import (
    LANGUAGE_PARTS,
    kind_problem,
    language_part,
    language_part_note,
    quantisation,
)
from runner.contract.models import find_model, longest_context, table_of_words
from runner.errors import ModelError

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def quantised(**how):
    """Give a Llama's config that says it is quantised so."""
    return {**LLAMA, "quantization_config": how}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (quantised(quant_method="gptq", bits=4), "gptq"),
        (quantised(quant_method="awq", bits=4), "awq"),
        (quantised(quant_method="fp8", activation_scheme="dynamic"), "fp8"),
        (quantised(quant_method="fbgemm_fp8"), "fbgemm_fp8"),
        (quantised(quant_method="compressed-tensors", format="pack-quantized"), "compressed-"),
        (quantised(quant_method="mxfp4"), "mxfp4"),
        (quantised(quant_method="modelopt"), "modelopt"),
        (quantised(quant_method="hqq"), "hqq"),
        (quantised(quant_method="bitnet"), "bitnet"),
        (quantised(quant_method="exl2", bits=5.0), "exl2"),
        (quantised(quant_method="bitsandbytes", load_in_8bit=True), "bitsandbytes, 8 bits"),
        (quantised(bits=4, group_size=128), "unknown method"),
        ({**LLAMA, "compression_config": {"quant_method": "compressed-tensors"}}, "compressed-"),
        ({**LLAMA, "quantization": {"group_size": 64, "bits": 4}}, "mlx"),
        ({**LLAMA, "text_config": {"quantization_config": {"quant_method": "awq"}}}, "awq"),
    ],
)
@pytest.mark.parametrize("method", ["qlora", "lora", None])
def test_a_quantised_base_is_named_and_refused(config, named, method):
    """Whatever the way and the method: training needs the 16-bit weights."""
    problem = kind_problem("m", config, method=method)
    assert problem is not None
    assert f"this model is already quantised ({named}" in problem.message
    assert "choose the version in 16 bits" in problem.message
    assert problem.hint


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("quantize_config.json", "gptq"),
        ("quant_config.json", "awq"),
        ("hf_quant_config.json", "mo"),
    ],
)
def test_older_repositories_say_it_in_a_file_of_its_own(file, named):
    """Their config.json says nothing of it."""
    assert (quantisation(LLAMA, [file]) or "").startswith(named)
    assert quantisation(LLAMA, ["generation_config.json"]) is None


def test_four_bits_of_bitsandbytes_suit_qlora_alone():
    """They are what qlora makes by itself; lora wants 16 bits, and says what takes 4."""
    config = quantised(quant_method="bitsandbytes", load_in_4bit=True, bnb_4bit_quant_type="nf4")
    assert kind_problem("m", config, method="qlora") is None
    assert kind_problem("m", config) is None
    problem = kind_problem("m", config, method="lora")
    assert problem is not None
    assert "Write method: qlora" in (problem.hint or "")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, "of this family gemma-3-1b-it"),
        ({"architectures": ["Qwen2_5_VLForConditionalGeneration"]}, "Qwen2.5-7B-Instruct"),
        ({"architectures": ["Qwen3VLForConditionalGeneration"], "text_config": {}}, "Qwen3-8B"),
        ({"architectures": ["Gemma3nForConditionalGeneration"], "text_config": {}}, "(timm)"),
        ({"architectures": ["MllamaForConditionalGeneration"]}, "is Llama-3.1's own"),
        ({"architectures": ["AyaVisionForConditionalGeneration"]}, "answers with other numbers"),
        ({"architectures": ["PaliGemmaForConditionalGeneration"]}, "from both sides"),
        (
            {"architectures": ["DogeForCausalLM"], "model_type": "doge", "is_moe": True},
            "would see the words it has to learn",
        ),
        ({"architectures": ["Mistral3ForConditionalGeneration"]}, "Mistral-Small-24B"),
        ({"architectures": ["MllamaForConditionalGeneration"]}, "Llama-3.1-8B-Instruct"),
        ({"architectures": ["Qwen3_5ForConditionalGeneration"]}, "also reads pictures"),
        ({"architectures": ["LlavaNextForConditionalGeneration"]}, "also reads pictures"),
        ({"architectures": ["LlavaLlamaForCausalLM"]}, "also reads pictures"),
        ({"architectures": ["Phi3VForCausalLM"]}, "Phi-3.5-mini-instruct"),
        ({"architectures": ["Phi4MMForCausalLM"]}, "Phi-4-mini-instruct"),
        ({"architectures": ["InternVLChatModel"], "vision_config": {"x": 1}}, "reads pictures"),
        ({"architectures": ["QWenLMHeadModel"], "visual": {"layers": 48}}, "also reads pictures"),
        ({"architectures": ["Qwen2_5OmniModel"]}, "also reads pictures"),
        ({"architectures": ["WhisperForConditionalGeneration"]}, "works with sound"),
        ({"architectures": ["Qwen2AudioForConditionalGeneration"]}, "works with sound"),
        ({"architectures": ["OddForCausalLM"], "audio_config": {"x": 1}}, "works with sound"),
        ({"architectures": ["T5ForConditionalGeneration"]}, "encoder-decoder"),
        ({"architectures": ["BartForConditionalGeneration"]}, "encoder-decoder"),
        ({"architectures": ["MarianMTModel"]}, "encoder-decoder"),
        ({"architectures": ["OddForCausalLM"], "is_encoder_decoder": True}, "encoder-decoder"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "from both sides"),
        ({"architectures": ["BertLMHeadModel"], "model_type": "bert"}, "from both sides"),
        ({"architectures": ["RobertaForCausalLM"], "model_type": "roberta"}, "from both sides"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "sorts texts into classes"),
        ({"architectures": ["Qwen2ForTokenClassification"]}, "labels single words"),
        ({"architectures": ["Qwen2ForRewardModel"]}, "grades answers"),
        ({"architectures": ["MistralModel"]}, "no output layer"),
        ({"architectures": ["Strange"]}, "not a text-generating"),
        ({"architectures": []}, "no architectures"),
        ({}, "no architectures"),
    ],
)
def test_other_kinds_of_models_are_named_as_what_they_are(config, said):
    """With something to choose instead."""
    problem = kind_problem("m", config)
    assert problem is not None
    assert said in problem.message
    assert problem.hint


@pytest.mark.parametrize(
    "config",
    [
        LLAMA,
        {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"},
        {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"},
        {"architectures": ["ModernBertDecoderForCausalLM"], "model_type": "modernbert-decoder"},
        {"architectures": ["RobertaForCausalLM"], "model_type": "roberta", "is_decoder": True},
        {"architectures": ["OddForCausalLM"], "vision_config": None, "auto_map": {"x": "y"}},
    ],
)
def test_text_generating_models_pass(config):
    """GPT-2 among them, whose class is named otherwise."""
    assert kind_problem("m", config) is None


@pytest.mark.parametrize("name", sorted(LANGUAGE_PARTS))
def test_picture_readers_with_a_language_part_pass_and_it_is_said(name):
    """Only that part is trained; a quantised one is refused like any other base."""
    config = {"architectures": [name], "text_config": {"x": 1}, "vision_config": {"x": 1}}
    assert kind_problem("m", config) is None
    assert language_part(config) is LANGUAGE_PARTS[name]
    assert "only its language part is trained" in language_part_note(config)
    problem = kind_problem("m", {**config, "quantization_config": {"quant_method": "awq"}})
    assert "already quantised (awq)" in problem.message
    assert language_part_note(LLAMA) is None
    assert language_part({"architectures": [name]}) is None


def test_limits_of_a_picture_reader_are_those_of_its_language_part():
    """Its context and its words stand one level deeper."""
    text = {"max_position_embeddings": 8192, "vocab_size": 300}
    config = {"text_config": text, "vision_config": {"max_position_embeddings": 64}}
    assert longest_context(config) == 8192
    assert table_of_words(config) == 300
    assert longest_context({"max_position_embeddings": 512}) == 512


def test_validate_says_it_before_anything_is_dropped(tmp_path, tiny_model):
    """The same words as prepare's, from config.json alone."""
    folder = tmp_path / "models" / "some-model-gptq"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "job.yaml").write_text("model: some-model-gptq\ndata: rows.jsonl\n")
    found = validate(tmp_path / "job.yaml", tmp_path / "models")
    assert [problem.message for problem in found.problems] == [
        "this model is already quantised (gptq): choose the version in 16 bits"
    ]


def test_an_adapter_and_a_gguf_are_no_base_models(tmp_path):
    """A folder that holds something else says what it is."""
    for name, file in (("adapter", "adapter_config.json"), ("llama-GGUF", "model.Q4_K_M.gguf")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter"):
        find_model(tmp_path, "adapter")
    with pytest.raises(ModelError, match=r"\.gguf\), which cannot be trained"):
        find_model(tmp_path, "llama-GGUF")


def test_validate_knows_the_layers_of_a_model_from_its_weight_files(tmp_path, tiny_model):
    """A slip in target_modules is named at once, and right names pass."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    spec = f"model: {tiny_model.name}\ndata: rows.jsonl\nlora: {{target_modules: [q_proj, %s]}}\n"
    (tmp_path / "job.yaml").write_text(spec % "v_porj")
    found = validate(tmp_path / "job.yaml", tiny_model.parent)
    assert [problem.found for problem in found.problems] == ["v_porj"]
    assert "Did you mean v_proj instead of v_porj?" in (found.problems[0].hint or "")
    (tmp_path / "job.yaml").write_text(spec % "self_attn.v_proj")
    assert not validate(tmp_path / "job.yaml", tiny_model.parent).problems
