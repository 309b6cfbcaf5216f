"""Tool calls and thinking are learned as the model's template writes them, or refused by name."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import trl
from tokenizers import AddedToken
from transformers import AutoTokenizer

from runner.training.data.conversation import Conversation, UnlearnableRowError
from runner.training.data.mark_answers import IGNORED
from runner.training.data.template import Template

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
# bos, eos and other control tokens of the models that ship these templates
FAMILIES = {
    "qwen3": (None, "<|im_end|>", ["<|im_start|>"]),
    "qwen2_5": (None, "<|im_end|>", ["<|im_start|>"]),
    "llama3_1": (
        "<|begin_of_text|>",
        "<|eot_id|>",
        ["<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>", "<|eom_id|>"],
    ),
    "gptoss": (
        "<|startoftext|>",
        "<|return|>",
        ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>"],
    ),
    "phi3": (None, "<|end|>", ["<|user|>", "<|assistant|>"]),
}
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Finds a clause.",
        "parameters": {"type": "object", "properties": {"clause": {"type": "string"}}},
    },
}
CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "look_up", "arguments": {"clause": "four"}},
}
CALLING = Conversation(
    file="a.jsonl",
    line=1,
    row=0,
    tools=(TOOL,),
    messages=(
        {"role": "user", "content": "How long is the notice period?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "FOUND", "tool_call_id": "abcdefghi", "name": "look_up"},
        {"role": "assistant", "content": "Three months."},
    ),
)
THINKING = Conversation(
    file="a.jsonl",
    line=1,
    row=0,
    messages=(
        {"role": "user", "content": "Is a deposit due?"},
        {"role": "assistant", "content": "Yes.", "reasoning_content": "REASONING clause 3"},
    ),
)


@pytest.fixture(scope="module")
def packaged(tiny_model):
    """Give SmolLM2's own tokenizer."""
    return AutoTokenizer.from_pretrained(tiny_model)


def template_of(name, packaged):
    """Give a template that a model family ships, with the real tokenizer and its control tokens."""
    tokenizer = copy.deepcopy(packaged)
    if name in FAMILIES:
        bos, eos, more = FAMILIES[name]
        special = [AddedToken(t, special=True) for t in (bos, eos, "<pad_me>", *more) if t]
        tokenizer.add_special_tokens({"additional_special_tokens": special})
        tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = bos, eos, None
        tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    return Template(tokenizer, name=name)


def learned(template, conversation):
    """Give the text of all learned tokens, and of all tokens."""
    examples = template.encode(conversation)
    said = [[n for n in e.labels if n != IGNORED] for e in examples]
    whole = template.tokenizer.decode([n for e in examples for n in e.input_ids])
    return "|".join(map(template.tokenizer.decode, said)), whole


CALLS = {
    "qwen2_5": '<tool_call>\n{"name": "look_up", "arguments": {"clause": "four"}}\n</tool_call>'
    "<|im_end|>Three months.<|im_end|>",
    "llama3_1": '{"name": "look_up", "parameters": {"clause": "four"}}<|eot_id|>'
    "Three months.<|eot_id|>",
    "gptoss": ' to=functions.look_up<|channel|>commentary json<|message|>{"clause": "four"}<|call|>'
    "|<|channel|>final<|message|>Three months.<|return|>",
    "qwen3": '<think>\n\n</think>\n\n<tool_call>\n{"name": "look_up", "arguments": '
    '{"clause": "four"}}\n</tool_call><|im_end|>|<think>\n\n</think>\n\nThree months.<|im_end|>',
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_learned_whole_and_a_result_only_read(name, packaged):
    """The call up to its end is learned; the tools and what they gave back stand in the prompt."""
    said, whole = learned(template_of(name, packaged), CALLING)
    assert said.replace("|<|", "<|") == CALLS[name].replace("|<|", "<|")
    assert "FOUND" in whole
    assert "Finds a clause." in whole


@pytest.mark.parametrize("name", ["smollm2", "phi3"])
def test_a_template_that_leaves_tools_out_refuses_the_row_by_name(name, packaged):
    """What the row itself calls them is said, and what to do."""
    template = template_of(name, packaged)
    with pytest.raises(UnlearnableRowError, match="tools, tool_calls") as caught:
        template.encode(CALLING)
    assert caught.value.hint
    spelled = replace(CALLING, tool_words=("function_call", "observation"))
    with pytest.raises(UnlearnableRowError, match=r"\(function_call, observation\)"):
        template.encode(spelled)


THOUGHTS = {
    "qwen3": "<think>\nREASONING clause 3\n</think>\n\nYes.<|im_end|>",
    "gptoss": "<|channel|>analysis<|message|>REASONING clause 3<|end|><|start|>assistant"
    "<|channel|>final<|message|>Yes.<|return|>",
}


@pytest.mark.parametrize("name", THOUGHTS)
def test_thinking_is_learned_as_the_template_writes_it(name, packaged):
    """It reaches the template under the name that this template reads."""
    assert learned(template_of(name, packaged), THINKING)[0] == THOUGHTS[name]


@pytest.mark.parametrize("key", ["thinking", "reasoning", "thought"])
def test_thinking_reaches_a_template_that_knows_one_name_alone(key, packaged):
    """Rows call it reasoning_content; the template at hand may read it under another name."""
    tokenizer = copy.deepcopy(packaged)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.KEY %}<t>{{ m.KEY }}</t>{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ).replace("KEY", key)
    said, _ = learned(Template(tokenizer, name="one name"), THINKING)
    assert said == "<t>REASONING clause 3</t>Yes.<|im_end|>"


@pytest.mark.parametrize("name", ["smollm2", "qwen2_5", "llama3_1"])
def test_thinking_that_the_template_leaves_out_is_refused_by_name(name, packaged):
    """The model would else be taught to answer without it."""
    with pytest.raises(UnlearnableRowError, match="reasoning_content") as caught:
        template_of(name, packaged).encode(THINKING)
    assert "Delete reasoning_content" in caught.value.hint


@pytest.mark.parametrize("name", ["smollm2", "qwen2_5", "qwen3", "llama3_1"])
def test_an_answer_that_is_only_read_has_no_label(name, packaged):
    """The model sees it in the conversation and learns the others."""
    talk = Conversation(
        file="a.jsonl",
        line=1,
        row=0,
        unlearned=frozenset({0}),
        messages=(
            {"role": "system", "content": "S"},
            {"role": "user", "content": "Is a deposit due?"},
            {"role": "assistant", "content": "WRONGANSWER"},
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": "Yes, three months' rent."},
        ),
    )
    said, whole = learned(template_of(name, packaged), talk)
    assert "WRONGANSWER" in whole
    assert "WRONG" not in said
    assert "Yes, three months' rent." in said
