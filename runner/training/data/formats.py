"""Turns rows of any accepted format into chat messages (or, for ``text``, the text to learn).

What a row must hold, by format:
    alpaca              instruction, output; input and system where there are any
    prompt-completion   prompt, completion (text, or lists of messages)
    messages            messages: [{role, content}, …]
    sharegpt            conversations: [{from, value}, …]
    text                text
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from runner.training.data.conversation import Conversation, Message
from runner.training.data.rows import Findings, Row

_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
_KNOWN = (
    ("messages", ("messages",)),
    ("sharegpt", ("conversations",)),
    ("alpaca", ("instruction", "output")),
    ("prompt-completion", ("prompt", "completion")),
    ("text", ("text",)),
)
"""Formats by the columns that tell them, the more telling first."""

_COLUMNS = (
    "Name the columns instruction and output, prompt and completion, messages, conversations, "
    "or text."
)


class _BadRowError(Exception):
    """What is wrong with a row, in words without its content."""


def detect(value: dict[str, Any]) -> str | None:
    """Name the format of a row by its columns, or None."""
    for name, columns in _KNOWN:
        if all(column in value for column in columns):
            return name
    # An answer that is missing altogether is better told as that than as an unknown format.
    if "instruction" in value:
        return "alpaca"
    return "prompt-completion" if "prompt" in value else None


def to_conversations(
    rows: Sequence[Row],
    *,
    data_format: str,
    system_prompt: str | None,
    findings: Findings,
) -> list[Conversation]:
    """Turn every row into a conversation; rows that cannot be one go into ``findings``."""
    formats = [data_format if data_format != "auto" else detect(row.value) for row in rows]
    counts = Counter(name for name in formats if name)
    main = counts.most_common(1)[0][0] if counts else None
    found: list[Conversation] = []
    for number, (row, name) in enumerate(zip(rows, formats, strict=True)):
        if name is None:
            what = "the row's columns belong to no known format"
            findings.add(row.file, row.line, what, hint=_COLUMNS)
            continue
        if name != main:
            what = f"the row is written as {name}, most others as {main}"
            findings.add(row.file, row.line, what, hint="Keep one format per job.")
            continue
        base = Conversation(file=row.file, line=row.line, row=number)
        try:
            if name == "text":
                text = _text(row.value.get("text"), "text")
                found.append(replace(base, text=text))
            else:
                messages = check(_READERS[name](row.value))
                found.append(replace(base, messages=with_system(messages, system_prompt)))
        except _BadRowError as problem:
            findings.add(row.file, row.line, str(problem))
    return found


def with_system(messages: tuple[Message, ...], prompt: str | None) -> tuple[Message, ...]:
    """Put the spec's system prompt before a conversation that has none of its own."""
    if not prompt or (messages and messages[0]["role"] == "system"):
        return messages
    return ({"role": "system", "content": prompt}, *messages)


def check(messages: list[Message]) -> tuple[Message, ...]:
    """Require what every template can render: a question first, an answer last.

    Raises:
        _BadRowError: in words without content.
    """
    turns = [message for message in messages if message["role"] != "system"]
    if not turns:
        raise _BadRowError("the row has no messages")
    if any(message["role"] == "system" for message in messages[1:]):
        raise _BadRowError("a system message stands elsewhere than first")
    if turns[-1]["role"] != "assistant":
        raise _BadRowError("the row has no answer: its last message is not the assistant's")
    if turns[0]["role"] != "user":
        raise _BadRowError("the conversation does not begin with the user")
    for before, after in itertools.pairwise(turns):
        if before["role"] == after["role"]:
            raise _BadRowError(f"two {after['role']} messages follow each other")
    for message in turns:
        if not message["content"].strip():
            empty = message["role"] == "assistant"
            raise _BadRowError("the row has no answer: it is empty" if empty else "empty question")
    return tuple(messages)


def _text(value: Any, column: str, *, may_be_empty: bool = False) -> str:
    if value is None and may_be_empty:
        return ""
    if not isinstance(value, str):
        what = "is missing" if value is None else "is not text"
        raise _BadRowError(f"{column!r} {what}")
    if not may_be_empty and not value.strip():
        raise _BadRowError(f"{column!r} is empty")
    return _without_lone_surrogates(value, column)


def _without_lone_surrogates(value: str, column: str) -> str:
    """JSON can spell half a character by its escape; no tokenizer can read it."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _BadRowError(f"{column!r} holds half of a Unicode character") from None
    return value


def _answer(value: Any, column: str) -> str:
    text = _text(value, column, may_be_empty=True)
    if not text.strip():
        raise _BadRowError(f"the row has no answer: {column!r} is missing or empty")
    return text


def _alpaca(value: dict[str, Any]) -> list[Message]:
    question = _text(value.get("instruction"), "instruction")
    more = _text(value.get("input"), "input", may_be_empty=True)
    system = _text(value.get("system"), "system", may_be_empty=True)
    messages = [{"role": "system", "content": system}] if system.strip() else []
    return [
        *messages,
        {"role": "user", "content": f"{question}\n\n{more}" if more.strip() else question},
        {"role": "assistant", "content": _answer(value.get("output"), "output")},
    ]


def _prompt_completion(value: dict[str, Any]) -> list[Message]:
    prompt, completion = value.get("prompt"), value.get("completion")
    messages = (
        _list_of_messages(prompt, "prompt")
        if isinstance(prompt, list)
        else [{"role": "user", "content": _text(prompt, "prompt")}]
    )
    if isinstance(completion, list):
        return messages + _list_of_messages(completion, "completion")
    answer = _answer(completion, "completion")
    return [*messages, {"role": "assistant", "content": answer}]


def _content(value: Any, column: str) -> str:
    """Take text, or a list of text parts; pictures and tools are not trained."""
    if isinstance(value, list):
        parts = [
            part["text"]
            for part in value
            if isinstance(part, dict) and isinstance(part.get("text"), str)
        ]
        if len(parts) != len(value):
            raise _BadRowError(f"a message in {column!r} holds something other than text")
        value = "".join(parts)
    return _text(value, "content", may_be_empty=True)


def _list_of_messages(value: Any, column: str) -> list[Message]:
    if not isinstance(value, list):
        raise _BadRowError(f"{column!r} is not a list of messages")
    messages: list[Message] = []
    for item in value:
        if not isinstance(item, dict):
            raise _BadRowError(f"{column!r} holds something that is not a message")
        if item.get("tool_calls") or item.get("function_call"):
            raise _BadRowError("the row calls tools, which is not supported")
        role = item.get("role", item.get("from"))
        known = _ROLES.get(role.strip().lower()) if isinstance(role, str) else None
        if known is None:
            raise _BadRowError("a message's role is none of system, user, assistant")
        content = _content(item.get("content", item.get("value")), column)
        messages.append({"role": known, "content": content})
    return messages


_READERS = {
    "alpaca": _alpaca,
    "prompt-completion": _prompt_completion,
    "messages": lambda value: _list_of_messages(value.get("messages"), "messages"),
    "sharegpt": lambda value: _list_of_messages(value.get("conversations"), "conversations"),
}
