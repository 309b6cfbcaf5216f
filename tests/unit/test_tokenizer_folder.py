"""The tokenizer that is handed over is the base's own, little changed, and stops where rows end."""

import json
import shutil

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as Fast

from runner.training.data.conversation import Conversation
from runner.training.data.template import Template
from runner.training.data.tokenizer_folder import load_tokenizer, write_tokenizer
from runner.training.evaluate.answers import ends

ROW = Conversation(
    file="a",
    line=1,
    row=0,
    messages=({"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}),
)
TEXT = Conversation(file="a", line=1, row=0, text="A text.")


@pytest.fixture
def base(tmp_path, tiny_model):
    """A copy of the tiny model's folder without its weights."""
    folder = tmp_path / "base"
    ignored = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(tiny_model, folder, ignore=ignored)
    return folder


def change(folder, name, **values):
    """Set keys of a JSON file; None takes a key away."""
    path = folder / name
    content = (json.loads(path.read_text()) if path.exists() else {}) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def written(base, row=ROW):
    """Encode one row and write the tokenizer; give its folder and its JSON files."""
    template = Template(load_tokenizer(base), name="base")
    template.encode(row)
    target = base.parent / "adapter"
    write_tokenizer(template, base, target)
    names = ("tokenizer_config.json", "generation_config.json")
    return target, *(json.loads((target / name).read_text()) for name in names)


def as_base_model(folder, *, special_map=False):
    """Make it what base models are shipped as: no chat template, `<|endoftext|>` as the end."""
    (folder / "chat_template.jinja").unlink()
    change(folder, "tokenizer_config.json", eos_token="<|endoftext|>", backend=None,
           tokenizer_class="PreTrainedTokenizerFast")  # fmt: skip
    change(folder, "config.json", eos_token_id=0)
    change(folder, "generation_config.json", eos_token_id=0)
    if special_map:
        token = {"content": "<|endoftext|>", "lstrip": False, "normalized": False,
                 "rstrip": False, "single_word": False}  # fmt: skip
        change(folder, "special_tokens_map.json", eos_token=token, bos_token="<|im_start|>")


@pytest.mark.parametrize("special_map", [False, True])
def test_a_base_models_end_becomes_the_one_that_is_learned(base, special_map):
    """`<|im_end|>` is learned, so the tokenizer and the generation settings both name it."""
    as_base_model(base, special_map=special_map)
    folder, config, generation = written(base)
    assert config["eos_token"] == "<|im_end|>"
    assert generation["eos_token_id"] == [2, 0]
    assert generation["pad_token_id"] not in (0, 2)
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [2, 0]
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|im_end|>"
    assert "<|im_end|>" in AutoTokenizer.from_pretrained(folder).chat_template
    if special_map:
        special = json.loads((folder / "special_tokens_map.json").read_text())
        assert special["eos_token"] == "<|im_end|>"
        assert special["pad_token"] == config["pad_token"]
        assert special["bos_token"] == "<|im_start|>"


def test_a_base_model_that_learns_texts_keeps_its_end(base):
    """Texts are learned with the model's own end, and that is where generation stops."""
    as_base_model(base)
    _folder, config, generation = written(base, TEXT)
    assert config["eos_token"] == "<|endoftext|>"
    assert generation["eos_token_id"] == [0]


def test_an_instruction_model_whose_tokenizer_names_another_end(base):
    """Llama 3 and Gemma name another end in their tokenizer than their template writes."""
    change(base, "tokenizer_config.json", eos_token="<|endoftext|>", pad_token="<filename>")
    change(base, "generation_config.json", eos_token_id=[0, 2], _from_model_config=True)
    _folder, config, generation = written(base)
    assert config["eos_token"] == "<|im_end|>"
    assert config["pad_token"] == "<filename>"
    assert generation["eos_token_id"] == [2, 0]
    assert "_from_model_config" not in generation


def test_an_end_that_the_template_writes_into_prompts_stays(base):
    """Prompts must not change: only the generation settings name the end that was learned."""
    an_end_that_stays(base)


def an_end_that_stays(base):
    """Write the tokenizer of a model whose prompts hold its end token; give the folder."""
    change(base, "tokenizer_config.json", eos_token="<|endoftext|>", pad_token="<filename>")
    (base / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
        "{{ '<|im_end|>' + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    folder, config, generation = written(base)
    assert config["eos_token"] == "<|endoftext|>"
    assert generation["eos_token_id"] == [2, 0]
    return folder


def test_our_own_answers_stop_there_too(base):
    """Where neither tokenizer nor base model name the end that was learned, the adapter does."""
    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(eos_token_id=1, **sizes, **heads))
    folder = an_end_that_stays(base)
    assert ends(model, load_tokenizer(folder)) == [0, 1, 2]


def test_a_base_without_generation_settings_gets_some(base):
    """The ends and the pad stand there, whatever else is missing."""
    (base / "generation_config.json").unlink()
    change(base, "config.json", eos_token_id=[2, 7])
    _folder, _config, generation = written(base)
    assert generation == {"eos_token_id": [2, 7], "pad_token_id": 0, "bos_token_id": 1}


SAID = "May I build 2.50 m? \n\n  it's §4 <|im_end|>\nx"


@pytest.fixture(scope="module")
def said_ids(tiny_model):
    """What tokenizer.json alone makes of a text."""
    return Tokenizer.from_file(str(tiny_model / "tokenizer.json")).encode(SAID).ids


@pytest.mark.parametrize(
    ("name", "kind"),
    [("PreTrainedTokenizerFast", "llama"), ("PreTrainedTokenizerFast", "qwen2"),
     ("LlamaTokenizerFast", "llama"), ("LlamaTokenizer", "llama"), ("LlamaTokenizer", "qwen2"),
     ("Qwen2Tokenizer", "qwen2"), ("Qwen2Tokenizer", "llama"), ("GPT2Tokenizer", "llama"),
     ("GemmaTokenizerFast", "llama"), ("CohereTokenizerFast", "llama")],
)  # fmt: skip
def test_the_bases_class_stays_and_its_file_is_what_is_read(name, kind, base, said_ids):
    """The class's name stays as the base has it; the ids are those of tokenizer.json, always."""
    change(base, "tokenizer_config.json", tokenizer_class=name)
    change(base, "config.json", model_type=kind)
    folder, config, _generation = written(base)
    assert config["tokenizer_class"] == name
    assert load_tokenizer(base)(SAID)["input_ids"] == said_ids
    assert load_tokenizer(folder)(SAID)["input_ids"] == said_ids


def test_what_transformers_5_leaves_behind_is_gone(base):
    """A base saved by transformers 5 comes out as older tools know it, its own file unchanged."""
    change(base, "tokenizer_config.json", is_local=True, local_files_only=True,
           extra_special_tokens=["<filename>"])  # fmt: skip
    folder, config, _generation = written(base)
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    left = {"backend", "is_local", "local_files_only", "extra_special_tokens", "name_or_path"}
    assert not left & config.keys()
    assert config["additional_special_tokens"] == ["<filename>"]
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (base / name).read_bytes()


def test_nothing_else_is_changed(base):
    """A base that needs no change comes out with the settings that it came with."""
    change(base, "tokenizer_config.json", tokenizer_class="LlamaTokenizerFast", backend=None,
           legacy=False, eos_token={"__type": "AddedToken", "content": "<|im_end|>"},
           added_tokens_decoder={})  # fmt: skip
    _folder, config, _generation = written(base)
    assert config == json.loads((base / "tokenizer_config.json").read_text())


def test_a_class_in_code_of_its_own_is_not_asked_for(base):
    """The code is not copied; tokenizer.json says all that it would."""
    change(base, "tokenizer_config.json", tokenizer_class="OurTokenizer",
           auto_map={"AutoTokenizer": ["x.OurTokenizer", None]})  # fmt: skip
    _folder, config, _generation = written(base)
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "auto_map" not in config


def test_an_end_token_that_only_the_class_knows_is_found(base):
    """GPT-2's settings name no end token; its class does."""
    change(base, "tokenizer_config.json", eos_token=None, bos_token=None, unk_token=None,
           pad_token=None, tokenizer_class="GPT2Tokenizer")  # fmt: skip
    assert Fast.from_pretrained(base).eos_token is None
    assert load_tokenizer(base).eos_token == "<|endoftext|>"


def test_a_pad_lies_within_the_embedding(base):
    """A pad that was added without a row of its own in the model is not used."""
    tokenizer = load_tokenizer(base)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    rows = json.loads((base / "config.json").read_text())["vocab_size"]
    assert tokenizer.pad_token_id >= rows
    Template(tokenizer, name="base", embedding_rows=rows)
    assert tokenizer.pad_token_id < rows
