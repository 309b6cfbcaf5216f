"""Tries models without weights, as prepare does: what train could not do is refused in words."""

import json
import time

import pytest
from peft import LoraConfig, get_peft_model
from plain_peft import save_tiny, save_words
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from runner.contract.layout import RunFolder, StageFolder
from runner.contract.stage_io import PreparePlan, PrepareResult, read_message, write_message
from runner.errors import ModelError
from runner.spec.read_spec import read_spec
from runner.training.data.prepare import prepare
from runner.training.data.try_model import try_model
from runner.training.export.refuse_early import Layers

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


def spec_with(text=""):
    """Give a spec with these lines."""
    return read_spec(f"model: m\ndata: d.jsonl\n{text}\n".encode(), file_name="job.yaml")


def config_alone(folder, **content):
    """Give a model folder that has a config and nothing else."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


QWEN3_30B = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}


def test_a_large_model_is_counted_in_seconds_without_weights(tmp_path):
    """Qwen3-30B-A3B: PEFT adapts its experts, 997 million weights; a config is enough to know."""
    folder = config_alone(tmp_path / "m", **QWEN3_30B)
    started = time.monotonic()
    tried = try_model(folder, spec_with(), longest=64)
    assert round(tried.trainable_parameters / 1e6) == 997
    assert tried.embedding_rows == 151936
    assert time.monotonic() - started < 60  # about 3 s with an idle processor


@pytest.mark.parametrize(
    ("config", "spec", "said"),
    [
        (QWEN3_30B, "lora: {dropout: 0.1}", "experts (MoE) take no dropout"),
        (QWEN3_30B, "lora: {target_modules: [q_proj, v_porj]}", "v_proj instead of v_porj"),
        ({"model_type": "brandnew", "architectures": ["BrandNewForCausalLM"]}, "", "newer kind"),
        (
            {
                "model_type": "own",
                "architectures": ["OwnForCausalLM"],
                "auto_map": {"AutoConfig": "configuration_own.OwnConfig"},
            },
            "",
            "brings program code of its own",
        ),
        ({"model_type": "llama", "hidden_size": "wide"}, "", "cannot be loaded"),
    ],
)
def test_what_config_json_tells_is_refused_in_words(config, spec, said, tmp_path):
    """Before a card is asked for anything."""
    folder = config_alone(tmp_path / "m", **config)
    with pytest.raises(ModelError) as caught:
        try_model(folder, spec_with(spec), longest=64)
    assert said in str(caught.value)


def prepared(tmp_path, *, spec="", rows=12, text="w3 w4 w5 w6", **plan):
    """Prepare rows for the tiny model that lies under models/m, and give the result."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    row = {"text": text}
    (jobs / "d.jsonl").write_text("".join(json.dumps({**row, "n": n}) + "\n" for n in range(rows)))
    run = RunFolder(tmp_path / "job" / "20261123T221005Z-k3f9")
    run.prepared.mkdir(parents=True)
    run.spec.write_text(f"model: m\ndata: d.jsonl\neval_split: 0\nmethod: lora\n{spec}\n")
    write_message(
        StageFolder(run.prepared).plan,
        PreparePlan(models_dir=str(tmp_path / "models"), jobs_dir=str(jobs), **plan),
    )
    prepare(run.prepared)
    return read_message(StageFolder(run.prepared).result, PrepareResult)


@pytest.fixture
def model(tmp_path):
    """A tiny model with a tokenizer of its words, as models/m."""
    folder = save_tiny("llama", tmp_path / "models" / "m")
    tokenizer = save_words(folder)
    template = (
        "{% for message in messages %}{{ '<s>' + message['role'] + ' ' + message['content'] + "
        "'</s>' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant ' }}{% endif %}"
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def test_a_broken_tokenizer_is_refused_with_what_the_library_says(model, tmp_path):
    """A slow tokenizer whose files or library are missing, for one: not an unexpected end."""
    (model / "tokenizer.json").unlink()
    settings = {"tokenizer_class": "SiglipTokenizer"}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="tokenizer cannot be read"):
        prepared(tmp_path)


def test_a_damaged_file_of_the_tokenizer_is_named(model, tmp_path):
    """Not "Expecting value: line 2": the file, the place, and what to do."""
    (model / "tokenizer_config.json").write_text('{\n "a": }')
    with pytest.raises(
        ModelError, match=r"tokenizer_config\.json is not valid JSON from line 2 on"
    ):
        prepared(tmp_path)


def test_a_damaged_chat_template_is_called_that(model, tmp_path):
    """It is the model's, and no row's fault; the line is named."""
    (model / "chat_template.jinja").write_text("{% for m in messages %}\n{{ m['content' }}")
    with pytest.raises(ModelError, match="chat template is damaged, from its line 2 on") as refused:
        prepared(tmp_path)
    assert "chat_template.jinja" in str(refused.value.advice or refused.value)


def test_tokens_beyond_the_model_are_refused(tmp_path):
    """A tokenizer that grew beside an older model: training would end with an index error."""
    from runner.training.data.try_model import Tried, require_known_tokens

    tried = Tried(
        trainable_parameters=1,
        embedding_rows=100,
        plain_because=None,
        layers=Layers(shapes={}, other_way_round=False),
    )
    require_known_tokens(99, tried, model="m")
    with pytest.raises(ModelError, match=r"token 100, but the model knows 100 tokens \(0 to 99\)"):
        require_known_tokens(100, tried, model="m")


LETTERS = ["<pad>", "<s>", "</s>", *map(chr, range(33, 127)), "Ġ", "Ċ"]
"""A tokenizer of single bytes, as ByteLevel spells them: a blank is Ġ, a line break Ċ."""


@pytest.fixture
def lettered(model):
    """The tiny model with a tokenizer of letters; for ü it writes tokens that the model lacks."""
    words = {word: number for number, word in enumerate([*LETTERS, "Ã", "¼"])}
    inner = Tokenizer(models.BPE(vocab=words, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **named)
    tokenizer.chat_template = (model / "chat_template.jinja").read_text()
    tokenizer.save_pretrained(model)
    return save_tiny("llama", model, vocab_size=len(LETTERS))


def test_prepare_counts_what_will_be_trained(lettered, tmp_path):
    """As PEFT counts on the model with its weights."""
    spec = "lora: {r: 4, target_modules: [q_proj, v_proj]}"
    found = prepared(tmp_path, spec=spec, try_model=True)
    own = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    whole = get_peft_model(AutoModelForCausalLM.from_pretrained(lettered), own)
    assert found.trainable_parameters == whole.get_nb_trainable_parameters()[0]


def test_prepare_refuses_layers_that_train_would_not_find(lettered, tmp_path):
    """Before a card is asked: a slip in one name of two."""
    spec = "lora: {target_modules: [q_proj, v_porj]}"
    with pytest.raises(ModelError, match="v_proj instead of v_porj"):
        prepared(tmp_path, spec=spec, try_model=True)


def test_prepare_refuses_rows_with_tokens_that_the_model_lacks(lettered, tmp_path):
    """A tokenizer that grew beside an older model: one letter is enough."""
    with pytest.raises(ModelError, match=rf"but the model knows {len(LETTERS)} tokens"):
        prepared(tmp_path, text="für", try_model=True)
