"""Proves token by token that only the answers are learned, on templates as models ship them."""

import copy
from functools import partial
from pathlib import Path

import pytest
import trl
from tokenizers import AddedToken, Regex, pre_tokenizers
from transformers import AutoTokenizer

from runner.errors import ModelError
from runner.training.data.conversation import Conversation
from runner.training.data.mark_answers import IGNORED
from runner.training.data.template import Template, UnlearnableRowError

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + (system if loop.first else '') + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3_WORDS = (  # how Llama 3's tokenizer parts text: line breaks stay together
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# bos, eos, other control tokens, template, the text that ends a turn
FAMILIES = {
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>"]),
    "qwen2_5": (None, "<|im_end|>", ["<|im_start|>"]),
    "chatml": (None, "<|im_end|>", ["<|im_start|>"]),
    "mistral": ("<s>", "</s>", []),
    "gemma": ("<bos>", "<end_of_turn>", ["<start_of_turn>", "<eos>"]),
}
TURNS = (
    {"role": "user", "content": "May I build a wall, 2.5 m high?"},
    {"role": "assistant", "content": "Yes. Ask §4 first:\n\n- it's allowed, mostly"},
    {"role": "user", "content": "And a fence?"},
    {"role": "assistant", "content": "No"},
)


def talk(*messages):
    """Make a conversation."""
    return Conversation(file="a.jsonl", line=1, row=0, messages=tuple(messages))


@pytest.fixture(scope="session")
def packaged(tiny_model):
    """Give SmolLM2's own tokenizer."""
    return AutoTokenizer.from_pretrained(tiny_model)


def make_tokenizer(packaged, name, *, template=None):
    """Give the real tokenizer with the control tokens and template of a family."""
    bos, eos, more = FAMILIES[name]
    tokenizer = copy.deepcopy(packaged)
    wanted = [token for token in (bos, eos, "<pad_me>", *more) if token]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(t, special=True) for t in wanted]}
    )
    tokenizer.bos_token, tokenizer.eos_token = bos, eos
    tokenizer.pad_token = None
    if name == "llama3":
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    shipped = TEMPLATES / f"{name}.jinja"
    own = {"mistral": MISTRAL, "chatml": CHATML}
    tokenizer.chat_template = template or own.get(name) or shipped.read_text()
    return tokenizer


@pytest.fixture
def tokenizer_of(packaged):
    """Give the real tokenizer with the control tokens and template of a family."""
    return partial(make_tokenizer, packaged)


def learned_texts(tokenizer, example):
    """Decode each unbroken stretch of learned tokens."""
    stretches, current = [], []
    for token, label in zip(example.input_ids, example.labels, strict=True):
        assert label in (IGNORED, token)
        if label == IGNORED:
            stretches, current = [*stretches, current], []
        else:
            current = [*current, token]
    return [tokenizer.decode(stretch) for stretch in [*stretches, current] if stretch]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_answers_and_their_end_are_learned(family, tokenizer_of):
    """In a conversation of two turns each answer is learned with its end token, nothing else."""
    tokenizer = tokenizer_of(family)
    (example,) = Template(tokenizer, name=family).encode(talk(*TURNS))
    end = FAMILIES[family][1]
    space = " " if family == "mistral" else ""
    answers = [TURNS[1]["content"], TURNS[3]["content"]]
    assert learned_texts(tokenizer, example) == [f"{space}{answer}{end}" for answer in answers]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_sees_at_use_what_it_saw_in_training(family, tokenizer_of):
    """The tokens before each answer are exactly those of the prompt as it is asked at use."""
    tokenizer = tokenizer_of(family)
    (example,) = Template(tokenizer, name=family).encode(talk(*TURNS))
    for asked in (1, 3):
        prompt = tokenizer.apply_chat_template(
            list(TURNS[:asked]), add_generation_prompt=True, return_dict=False
        )
        assert example.input_ids[: len(prompt)] == prompt
        assert example.labels[len(prompt) - 1] == IGNORED
        assert example.labels[len(prompt)] != IGNORED


@pytest.mark.parametrize("family", FAMILIES)
def test_never_two_begin_tokens(family, tokenizer_of):
    """A row begins with at most one begin-of-text token, chat or plain text."""
    tokenizer = tokenizer_of(family)
    template = Template(tokenizer, name=family)
    text = Conversation(file="a", line=1, row=0, text="plain")
    for example in [*template.encode(talk(*TURNS)), *template.encode(text)]:
        assert example.input_ids.count(tokenizer.bos_token_id) <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_pad_is_never_an_end_token(family, tokenizer_of):
    """Also where the tokenizer says so itself, the pad is another token than any end."""
    tokenizer = tokenizer_of(family)
    tokenizer.pad_token = tokenizer.eos_token
    template = Template(tokenizer, name=family)
    assert tokenizer.pad_token_id not in {tokenizer.eos_token_id, *template.marker.end_ids}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_system_prompt_is_seen_and_not_learned(family, tokenizer_of):
    """It reaches the model in every template; where there is no place for it, that is said."""
    tokenizer = tokenizer_of(family)
    template = Template(tokenizer, name=family)
    system = {"role": "system", "content": "Answer briefly."}
    (example,) = template.encode(talk(system, *TURNS))
    assert "Answer briefly." in tokenizer.decode(example.input_ids)
    assert not any("briefly" in text for text in learned_texts(tokenizer, example))
    assert bool(template.shortfalls) == (family == "gemma")


def test_answers_that_are_later_shown_differently_become_examples_of_their_own(tokenizer_of):
    """Qwen 3 drops its thinking from earlier turns: each answer is learned as it was first seen."""
    tokenizer = tokenizer_of("chatml", template=(TEMPLATES / "qwen3.jinja").read_text())
    examples = Template(tokenizer, name="qwen3").encode(talk(*TURNS))
    assert len(examples) == 2
    for example, answer in zip(examples, (TURNS[1], TURNS[3]), strict=True):
        (text,) = learned_texts(tokenizer, example)
        assert text.endswith(f"{answer['content']}<|im_end|>")


def test_a_generation_prompt_that_is_no_beginning_refuses_the_model(tokenizer_of):
    """Where the template begins answers otherwise than it asks for them, the reason is given."""
    odd = CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")
    with pytest.raises(ModelError, match="generation prompt"):
        Template(tokenizer_of("chatml", template=odd), name="thinker")


def test_a_template_without_an_end_token_refuses_the_model(tokenizer_of):
    """An answer without an end would teach the model never to stop."""
    endless = CHATML.replace("<|im_end|>", "")
    with pytest.raises(ModelError, match="no token of its own"):
        Template(tokenizer_of("chatml", template=endless), name="endless")


def test_a_token_across_the_border_is_refused(tokenizer_of):
    """A border inside a token cannot be masked exactly; it is named and never guessed."""
    glued = CHATML.replace("assistant\n' }}{% endif", "assistant' }}{% endif").replace(
        "m['role'] + '\n'", "m['role'] + ('' if m['role'] == 'assistant' else '\n')"
    )
    template = Template(tokenizer_of("chatml", template=glued), name="glued")
    with pytest.raises(UnlearnableRowError, match="border"):
        template.encode(talk(TURNS[0], {"role": "assistant", "content": "s are here"}))


def test_a_base_model_gets_chatml_and_it_is_said(tokenizer_of):
    """Without a template ChatML is used, ended by a token that the model knows."""
    tokenizer = tokenizer_of("mistral")
    tokenizer.chat_template = None
    template = Template(tokenizer, name="base")
    (example,) = template.encode(talk(*TURNS))
    end = "<|im_end|>" if "<|im_end|>" in tokenizer.get_vocab() else "</s>"
    answers = [TURNS[1]["content"] + end, TURNS[3]["content"] + end]
    assert learned_texts(tokenizer, example) == answers
    assert template.chat_template == "ChatML"
    assert "ChatML" in template.shortfalls[0]


def test_text_rows_are_learned_whole(tokenizer_of):
    """Every token of a text row is learned, and the end after it."""
    tokenizer = tokenizer_of("llama3")
    text = Conversation(file="a", line=1, row=0, text="All of this.")
    (example,) = Template(tokenizer, name="llama3").encode(text)
    assert learned_texts(tokenizer, example) == ["All of this.<|eot_id|>"]


@pytest.mark.parametrize(
    "name",
    ["llama3_1", "llama3_2", "qwen3_instruct_2507", "phi3", "phi3_5", "gemma3", "cohere", "lfm2"],
)
def test_more_shipped_templates_are_exact(name, tokenizer_of):
    """Whatever the template does with earlier turns, learned stretches are answers with one end."""
    tokenizer = tokenizer_of("llama3", template=(TEMPLATES / f"{name}.jinja").read_text())
    more = ["<|end|>", "<|im_end|>", "<end_of_turn>", "<|END_OF_TURN_TOKEN|>", "<|user|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": more})
    examples = Template(tokenizer, name=name).encode(talk(*TURNS))
    texts = [text for example in examples for text in learned_texts(tokenizer, example)]
    assert len(texts) == 2
    for text, answer in zip(texts, (TURNS[1], TURNS[3]), strict=True):
        assert text.startswith(answer["content"])
        assert text.removeprefix(answer["content"]) in {*more, "<|eot_id|>"}
