"""Modelfile: what Ollama needs beside a GGUF file: template, system prompt and where answers end.

Ollama does not run chat templates of the Hugging Face kind; it has a language of its own (Go's
templates, docs: ollama/docs/template.md, modelfile.md). The pieces around each message are found by
rendering marked messages, and the result counts only if it then renders like the original.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Messages = Sequence[dict[str, str]]
Render = Callable[[Messages], str]
"""Renders a conversation, with the beginning of an answer behind it, as training did."""

_SYSTEM, _ASKED, _ANSWER, _AGAIN = "zqSYSzq", "zqASKzq", "zqANSzq", "zqAGNzq"
_QUOTES = '"""'


@dataclass(frozen=True, kw_only=True)
class Turns:
    """What a chat template puts around each message."""

    system: tuple[str, str] | None
    """Before and after a system message; None: the template has no place for one."""
    user: tuple[str, str]
    assistant: tuple[str, str]
    opening: str
    """Before everything."""
    without_system: str
    """In the place of a system message where there is none."""
    answer: str
    """Begins an answer."""

    def render(self, messages: Messages) -> str:
        """Render as Ollama does with `go_template`."""
        has_system = any(one["role"] == "system" for one in messages)
        text = self.opening + ("" if has_system else self.without_system)
        around = {"user": self.user, "assistant": self.assistant, "system": self.system or ("", "")}
        for one in messages:
            before, after = around[one["role"]]
            text += before + one["content"] + after
        return text + self.answer


def read_turns(render: Render, *, has_system: bool) -> Turns | None:
    """Find what a chat template puts around messages; None: it is not of so simple a kind."""
    asked = {"role": "user", "content": _ASKED}
    answer = {"role": "assistant", "content": _ANSWER}
    again = {"role": "user", "content": _AGAIN}
    system = {"role": "system", "content": _SYSTEM}
    try:
        long, short = render([asked, answer, again]), render([asked])
        head, middle, between, tail = _cut(long, _ASKED, _ANSWER, _AGAIN)
        end = short.rpartition(_ASKED)[2]
        # The answer's beginning is what a question's end and an answer's own beginning share.
        user_after = _common(middle, end)
        user_before = _whole_token(between[len(between) - _common_end(between, head) :], head)
        assistant_before = middle[len(user_after) :]
        assistant_after = between[: len(between) - len(user_before)]
        opening = head[: len(head) - len(user_before)]
        around, without = None, ""
        if has_system:
            top, rest = _cut(render([system, asked]), _SYSTEM)
            inner = rest.partition(_ASKED)[0]
            system_after = inner[: len(inner) - len(user_before)]
            shared = _common(top, opening)
            # A default system message is not part of what opens every conversation.
            cut = len(shared) if opening.startswith(top) or not opening else _safe(top, opening)
            around = (top[cut:], system_after)
            without, opening = opening[cut:], opening[:cut]
        if tail[: len(user_after)] != user_after:
            return None
        found = Turns(
            system=around,
            user=(user_before, user_after),
            assistant=(assistant_before, assistant_after),
            opening=opening,
            without_system=without,
            answer=tail[len(user_after) :],
        )
        longer = [asked, answer, again, answer, asked]  # one that counts its turns differs here
        trials: list[list[dict[str, str]]] = [[asked], [asked, answer, again], longer]
        if has_system:
            trials += [[system, asked], [system, asked, answer, again], [system, *longer]]
        return found if all(found.render(one) == render(one) for one in trials) else None
    except (ValueError, TypeError, KeyError):
        return None


def _cut(text: str, *marks: str) -> list[str]:
    """Cut a text at each mark, which must stand in it once and in this order."""
    parts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise ValueError(mark)
        parts.append(before)
    return [*parts, text]


def _common(one: str, other: str) -> str:
    both = zip(one, other, strict=False)
    length = next((n for n, (a, b) in enumerate(both) if a != b), min(len(one), len(other)))
    return one[:length]


def _common_end(one: str, other: str) -> int:
    return len(_common(one[::-1], other[::-1]))


def _whole_token(shared: str, text: str) -> str:
    """Cut the end of a token from the beginning of what two texts share at their ends."""
    begun = re.search(r"<[^<>]*$", text[: len(text) - len(shared)])
    rest = re.match(r"[^<>]*>", shared)
    return shared[rest.end() :] if begun and rest else shared


def _safe(top: str, opening: str) -> int:
    """Say how much of what precedes a system message also precedes a conversation without one.

    All of what is before the message is its own, but for a beginning-of-text token: a default
    system message begins like any other one.
    """
    first = re.match(r"<[^<>]*>", top)
    if first and opening.startswith(first.group()) and not opening.startswith(top):
        return first.end()
    return 0


def go_template(turns: Turns, *, bos: str = "") -> str:
    """Write a template in Ollama's language.

    Args:
        turns: what stands around each message.
        bos: the beginning-of-text token, where the file has the server put it there: it is left
            out here, or it would stand there twice.
    """
    opening = turns.opening.removeprefix(bos) if bos else turns.opening
    without = turns.without_system
    if bos and not turns.opening:
        without = without.removeprefix(bos)
    user, assistant = map(_literal_pair, (turns.user, turns.assistant))
    folded = ""
    system = ""
    if turns.system is None:  # as rows were rendered: before the first question, with an empty line
        folded = "{{ if and $.System (le $i 1) }}{{ $.System }}\n\n{{ end }}"
    else:
        before, after = _literal_pair(turns.system)
        system = f'{{{{ if eq .Role "system" }}}}{before}{{{{ .Content }}}}{after}{{{{ else }}}}'
    text = _literal(opening)
    if without:
        text += f"{{{{ if not .System }}}}{_literal(without)}{{{{ end }}}}"
    return (
        f"{text}{{{{ range $i, $_ := .Messages }}}}{system}"
        f'{{{{ if eq .Role "user" }}}}{user[0]}{folded}{{{{ .Content }}}}{user[1]}'
        f'{{{{ else if eq .Role "assistant" }}}}{assistant[0]}{{{{ .Content }}}}{assistant[1]}'
        f"{{{{ end }}}}{'{{ end }}' if system else ''}{{{{ end }}}}{_literal(turns.answer)}"
    )


def _literal_pair(pair: tuple[str, str]) -> tuple[str, str]:
    return _literal(pair[0]), _literal(pair[1])


def _literal(text: str) -> str:
    """Write text that the template must not read as an action."""
    return text.replace("{{", '{{ "{{" }}')


@dataclass(frozen=True, kw_only=True)
class Modelfile:
    """What goes into it."""

    model: str
    """The GGUF file, as the Modelfile's folder has it."""
    adapter: str | None = None
    template: str | None
    """None: it cannot be written in Ollama's language."""
    system: str | None
    stops: tuple[str, ...]


def write_modelfile(wanted: Modelfile) -> tuple[str, tuple[str, ...]]:
    """Write a Modelfile; give it, and what could not be said in it."""
    lines, lost = [f"FROM ./{wanted.model}"], []
    if wanted.adapter:
        lines.append(f"ADAPTER ./{wanted.adapter}")
    if wanted.template is None or _QUOTES in wanted.template:
        lost.append("the chat template cannot be written in Ollama's language; use llama-server")
    else:
        lines.append(f"TEMPLATE {_QUOTES}{wanted.template}{_QUOTES}")
    if wanted.system:
        if _QUOTES in wanted.system or wanted.system.endswith('"'):
            lost.append('the system prompt has """ in it or ends with ", which a Modelfile cannot')
        else:
            lines.append(f"SYSTEM {_QUOTES}{wanted.system}{_QUOTES}")
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in wanted.stops]
    lines.append("PARAMETER temperature 0")
    return "\n".join(lines) + "\n", tuple(lost)
