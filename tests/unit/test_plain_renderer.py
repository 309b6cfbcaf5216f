"""Messages of role and text are rendered as transformers renders them, or by transformers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import trl
from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import _compile_jinja_template

from runner.training.data.fixed_parts import FixedParts, follows_from_roles
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


BUNDLED = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
"""Templates of real models."""
ODD = ["a", " b ", "\nline\n\n", "<think>x</think>y", "</think>", "{{ x }}", "\u2003", "", "end\n"]


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_fixed_parts_put_together_are_the_rendering(path: Path) -> None:
    """Of every bundled template that is read so: texts with blanks, tags or braces, too."""
    source = path.read_text()
    template = _compile_jinja_template(source)
    if not follows_from_roles(source, template.environment):
        return
    parts, dice = FixedParts(), random.Random(path.stem)
    for number in range(200):
        given: dict[str, Any] = {"add_generation_prompt": number % 2 == 0, "tools": None}
        given |= {"bos_token": "<s>", "eos_token": "</s>"}
        roles = ["user", "assistant"] * 3
        roles = ["system"] * dice.randint(0, 1) + roles[: dice.randint(1, 6)]
        messages = [{"role": role, "content": dice.choice(ODD)} for role in roles]
        try:
            own = template.render(messages=messages, **given)
        except TemplateError:
            with pytest.raises(TemplateError):
                assert parts.render(messages, template, given) is not None
            continue
        assert parts.render(messages, template, given) in (None, own)


def test_templates_of_large_data_are_read_by_their_parts() -> None:
    """Those of fixed words around texts: to render them was a seventh of preparing."""
    sources = {path.stem: path.read_text() for path in BUNDLED}
    known = {
        name
        for name, source in sources.items()
        if follows_from_roles(source, _compile_jinja_template(source).environment)
    }
    assert {"llama3", "qwen2_5", "qwen3_instruct_2507", "gemma", "phi3"} <= known


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content.split('x')[-1] }}{% endfor %}",
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
        "{% for m in messages %}{% if m.content == 'a' %}!{% endif %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{% if 'a' in m.content %}!{% endif %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content[0] }}{% endfor %}",
        "{% for m in messages %}{{ m | tojson }}{% endfor %}",
        "{{ messages }}",
        "{% for m in messages %}{% for key in m %}{{ m[key] }}{% endfor %}{% endfor %}",
        "{% for m in messages %}{% for k, v in m.items() %}{{ v[0] }}{% endfor %}{% endfor %}",
        "{% for m in messages %}{{ m.content | length }}{% endfor %}",
        "{% for m in messages %}{{ loop.previtem.content | length }}{% endfor %}",
        "{% set n = namespace(x='') %}{% set n.x = messages[0].content %}{{ n.x | length }}",
        "{% macro say(m) %}{{ m.content | length }}{% endmacro %}{{ say(messages[0]) }}",
        "{{ strftime_now('%H:%M:%S.%f') }}{{ messages[0].content }}",
    ],
)
def test_a_template_that_looks_into_a_text_is_rendered_for_every_row(source: str) -> None:
    """Whatever it does there, no row may be given the words of another one."""
    assert not follows_from_roles(source, _compile_jinja_template(source).environment)
