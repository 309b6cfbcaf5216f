"""Modelfile: Ollama renders conversations as training did, by a reader of Ollama's own language."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from transformers import AutoTokenizer

from runner.contract.layout import StageFolder
from runner.contract.stage_io import PrepareResult, write_message
from runner.training.export.for_ollama import modelfile_for
from runner.training.export.modelfile import (
    Messages,
    Modelfile,
    go_template,
    read_turns,
    write_modelfile,
)

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}{{ '<|im_start|>assistant\n' }}"
)
SMOLLM2 = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant"
    " named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}" + CHATML
)
LLAMA3 = (
    "{{ '<|begin_of_text|>' }}{% for message in messages %}{{ '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
GEMMA = (
    "{{ '<bos>' }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('no system') }}{% endif %}{{ '<start_of_turn>' + ('model' if "
    "message['role'] == 'assistant' else 'user') + '\n' + message['content'] + '<end_of_turn>\n' }}"
    "{% endfor %}{{ '<start_of_turn>model\n' }}"
)
PHI = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + "
    "'<|end|>\n' }}{% endfor %}{{ '<|assistant|>\n' }}"
)
BRACES = (
    "{% for m in messages %}{{ '{' + '{' + m['role'] + '}}' + m['content'] + ';' }}{% endfor %}"
)
BRACES += "{{ '{' + '{assistant}}' }}"
LAST_IS_OTHER = (
    "{% for m in messages %}{{ m['role'] + ':' + m['content'] }}"
    "{{ ' (' ~ messages | length ~ ')' }}\n{% endfor %}{{ 'assistant:' }}"
)
COUNTS = (
    "{% for m in messages %}[{{ loop.index }}]<{{ m['role'] }}>{{ m['content'] }}"
    "</{{ m['role'] }}>{% endfor %}{{ '<assistant>' }}"
)
SYSTEM = {"role": "system", "content": "You are a clerk."}
ASKED = {"role": "user", "content": "What is a lease?"}
ANSWER = {"role": "assistant", "content": "A contract of use."}
AGAIN = {"role": "user", "content": "And a loan?"}


def render_with(template: str) -> Any:
    """Render a conversation with a chat template, as transformers does."""

    def refuse(said: str) -> None:
        raise ValueError(said)

    compiled = jinja2.Environment(autoescape=False).from_string(template)
    return lambda messages: compiled.render(messages=messages, raise_exception=refuse)


def ollama(template: str, messages: Messages) -> str:
    """Render as Ollama documents it: a small reader of Go's templates, written for this test.

    It knows what `template.md` names: text, range with index, if / else if / else / end, eq, le,
    not, and, quoted strings, .Role, .Content, .System (all system messages) and $.System.
    """
    parts = re.split(r"(\{\{.*?\}\})", template)
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")

    def value(words: list[str], scope: dict[str, Any]) -> Any:
        joined = " ".join(words)
        inner = re.match(r"(\w+) (.*)", joined)
        if joined in (".System", "$.System"):
            return system
        if joined in (".Role", ".Content"):
            return scope["."][joined[1:].lower()]
        if joined == "$i":
            return scope["i"]
        if joined.isdigit():
            return int(joined)
        if joined.startswith('"'):
            return joined[1:-1]
        assert inner, joined
        name, rest = inner.groups()
        arguments = re.findall(r"\([^)]*\)|\"[^\"]*\"|\S+", rest)
        found = [value(one.strip("()").split(" "), scope) for one in arguments]
        return {
            "eq": lambda: found[0] == found[1],
            "le": lambda: found[0] <= found[1],
            "not": lambda: not found[0],
            "and": lambda: all(found),
        }[name]()

    def block(at: int, scope: dict[str, Any], *, active: bool) -> tuple[str, int, str]:
        """Render up to the word that ends this block; give text, place behind it, that word."""
        text = ""
        while at < len(parts):
            part = parts[at]
            at += 1
            if not part.startswith("{{"):
                text += part if active else ""
                continue
            inner = part[2:-2].strip()
            words = inner.split(" ")
            if words[0] in ("end", "else"):
                return text, at, inner
            if words[0] == "range":
                begin = at
                _, at, _ = block(begin, scope, active=False)
                for i, message in enumerate(messages if active else ()):
                    text += block(begin, {".": message, "i": i}, active=True)[0]
            elif words[0] == "if":
                done = False
                ended = inner
                while ended != "end":
                    asked = ended.removeprefix("else").strip().removeprefix("if").strip()
                    takes = active and not done
                    if takes and asked:
                        takes = bool(value(asked.split(" "), scope))
                    found, at, ended = block(at, scope, active=takes)
                    done = done or takes
                    text += found
            elif active:
                text += str(value(words, scope))
        return text, at, ""

    return block(0, {}, active=True)[0]


@pytest.mark.parametrize("template", [CHATML, SMOLLM2, LLAMA3, PHI, BRACES])
@pytest.mark.parametrize(
    "messages",
    [[ASKED], [SYSTEM, ASKED], [ASKED, ANSWER, AGAIN], [SYSTEM, ASKED, ANSWER, AGAIN]],
    ids=["asked", "system", "turns", "system and turns"],
)
def test_ollama_renders_what_was_trained(template: str, messages: Messages) -> None:
    """The template in Ollama's language renders each conversation as the model's own does."""
    render = render_with(template)
    turns = read_turns(render, has_system=True)
    assert turns is not None
    assert ollama(go_template(turns), messages) == render(messages)


def test_a_beginning_that_the_server_adds_stands_there_once() -> None:
    """Where the GGUF file has the server put the first token, the template leaves it out."""
    render = render_with(LLAMA3)
    turns = read_turns(render, has_system=True)
    assert turns is not None
    bos = "<|begin_of_text|>"
    for messages in ([ASKED], [SYSTEM, ASKED]):
        assert bos + ollama(go_template(turns, bos=bos), messages) == render(messages)


def test_a_template_without_a_system_turn_puts_the_prompt_before_the_question() -> None:
    """As the rows were rendered: before the first question only, with an empty line between."""
    render = render_with(GEMMA)
    turns = read_turns(render, has_system=False)
    assert turns is not None
    folded = {"role": "user", "content": f"{SYSTEM['content']}\n\n{ASKED['content']}"}
    template = go_template(turns)
    for rest in ([], [ANSWER, AGAIN]):
        assert ollama(template, [SYSTEM, ASKED, *rest]) == render([folded, *rest])
        assert ollama(template, [ASKED, *rest]) == render([ASKED, *rest])


def test_a_template_that_cannot_be_expressed_is_said() -> None:
    """One that looks at the whole conversation is not written wrongly: the file says so instead."""
    assert read_turns(render_with(LAST_IS_OTHER), has_system=True) is None
    for has_system in (True, False):
        assert read_turns(render_with(COUNTS), has_system=has_system) is None
    text, lost = write_modelfile(
        Modelfile(model="a.gguf", template=None, system=None, stops=("<|end|>",))
    )
    assert "TEMPLATE" not in text
    assert "llama-server" in lost[0]


def read_modelfile(text: str) -> dict[str, list[str]]:
    """Read a Modelfile by Ollama's documented grammar: INSTRUCTION arguments."""
    found: dict[str, list[str]] = {}
    rest = text
    pattern = re.compile(r'([A-Z]+) (?:"""(.*?)"""|([^\n]*))\n', re.DOTALL)
    while rest:
        match = pattern.match(rest)
        assert match, rest[:40]
        name, quoted, plain = match.groups()
        found.setdefault(name, []).append(plain if quoted is None else quoted)
        rest = rest[match.end() :]
    return found


def test_the_modelfile_reads_as_ollama_documents_it() -> None:
    """FROM, ADAPTER, TEMPLATE, SYSTEM and PARAMETER stop, with lines and quotes kept."""
    text, lost = write_modelfile(
        Modelfile(
            model="base.gguf",
            adapter="job-adapter.gguf",
            template="a\n{{ .Content }}\n",
            system='Answer "briefly".\nIn German.',
            stops=("<|im_end|>", '"end"'),
        )
    )
    assert not lost
    assert read_modelfile(text) == {
        "FROM": ["./base.gguf"],
        "ADAPTER": ["./job-adapter.gguf"],
        "TEMPLATE": ["a\n{{ .Content }}\n"],
        "SYSTEM": ['Answer "briefly".\nIn German.'],
        "PARAMETER": ['stop "<|im_end|>"', r'stop "\"end\""', "temperature 0"],
    }


@pytest.mark.parametrize("prompt", ['Say """ aloud.', 'End with "'])
def test_a_system_prompt_that_a_modelfile_cannot_hold_is_said(prompt: str) -> None:
    """It is left out and named, and does not end the quotation early."""
    text, lost = write_modelfile(
        Modelfile(model="a.gguf", template="{{ .Content }}", system=prompt, stops=())
    )
    assert "SYSTEM" not in text
    assert len(lost) == 1
    read_modelfile(text)


@pytest.mark.parametrize("system", [None, "Answer like a clerk."])
def test_a_run_gets_the_template_that_it_was_trained_with(
    tiny_model: Path, tmp_path: Path, system: str | None
) -> None:
    """From the tokenizer beside the adapter: Ollama's text is that of transformers."""
    prepared = StageFolder(tmp_path)
    write_message(prepared.result, PrepareResult(end_tokens=("<|endoftext|>",)))
    run = SimpleNamespace(adapter=tiny_model, prepared=tmp_path)
    spec = SimpleNamespace(system_prompt=system)
    source: Any = SimpleNamespace(run=run, spec=spec)
    text, lost = modelfile_for(source, tmp_path / "job-q4_k_m.gguf")
    assert lost == ()
    assert text.startswith("FROM ./job-q4_k_m.gguf\n")
    template = text.split('TEMPLATE """')[1].split('"""')[0]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for messages in ([ASKED], [SYSTEM, ASKED], [SYSTEM, ASKED, ANSWER, AGAIN]):
        wanted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert ollama(template, messages) == wanted
    assert ("SYSTEM" in text) is (system is not None)
    stops = [line for line in text.splitlines() if line.startswith("PARAMETER stop")]
    # The end token that the run learned comes first, then the tokenizer's own.
    assert stops == ['PARAMETER stop "<|endoftext|>"', f'PARAMETER stop "{tokenizer.eos_token}"']
