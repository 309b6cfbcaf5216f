"""Messages of role and text are rendered as transformers renders them, or by transformers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from runner.training.data.plain_renderer import PlainRenderer

TEXTS = ["", "a", "Ein Satz.", "two\nlines", "{{ messages }}", "<|im_end|>", "ß漢😀"]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    """Give a tokenizer with a chat template."""
    return AutoTokenizer.from_pretrained(tiny_model)


def talks(count: int) -> list[list[dict[str, str]]]:
    """Make conversations."""
    dice = random.Random(3)
    return [
        [
            {"role": role, "content": dice.choice(TEXTS)}
            for role in ["system", "user", "assistant", "user"][: dice.randint(1, 4)]
        ]
        for _ in range(count)
    ]


def usual(tokenizer: Any, messages: list[dict[str, str]], *, prompt: bool) -> str:
    """Render as transformers does."""
    return str(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    )


def test_a_rendering_is_that_of_transformers(tokenizer: Any) -> None:
    """Also of those that are not compared, and after the template or an end token was changed."""
    renderer = PlainRenderer(tokenizer)
    own = tokenizer.chat_template, tokenizer.eos_token
    for change in (None, "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"):
        tokenizer.chat_template = change or own[0]
        for number, messages in enumerate(talks(200)):
            tokenizer.eos_token = own[1] if number < 150 else "<|endoftext|>"
            assert renderer.takes(messages)
            said = renderer.render(messages, generation_prompt=number % 2 == 0)
            assert said == usual(tokenizer, messages, prompt=number % 2 == 0)
    tokenizer.chat_template, tokenizer.eos_token = own


def test_a_template_that_is_compiled_otherwise_is_not_used(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should another version of transformers render otherwise, all is rendered by it."""
    renderer = PlainRenderer(tokenizer)
    monkeypatch.setattr(renderer, "_by_template", lambda *_, **__: "other")
    (messages,) = talks(1)
    assert renderer.render(messages, generation_prompt=True) == usual(
        tokenizer, messages, prompt=True
    )
    assert not renderer.takes(messages)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        [{"role": "assistant", "content": "", "tool_calls": []}],
        [{"role": "user"}],
    ],
)
def test_what_is_more_than_two_texts_goes_to_transformers(tokenizer: Any, messages: Any) -> None:
    """Tools, thinking and parts of a message are rendered by transformers itself."""
    assert not PlainRenderer(tokenizer).takes(messages)
