"""Conversation: one row of data, ready to be rendered by a model's chat template."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
"""``role`` and ``content`` (always text), and what few messages have beside them: ``tool_calls``,
``tool_call_id``, ``name``, ``reasoning_content``."""


class UnlearnableRowError(Exception):
    """A row that cannot be rendered exactly; the message holds nothing of its content."""

    def __init__(self, message: str, *, hint: str) -> None:
        """Take what is wrong and the change that would make it right."""
        self.hint = hint
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One row."""

    file: str
    line: int
    row: int
    """The row's place in the data, counted over all files from 0."""
    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    """The tools that may be called, as JSON Schemas; templates show them before the messages."""
    tool_words: tuple[str, ...] = ()
    """What the row itself calls its tools, calls and results, such as ``function_call``."""
    unlearned: frozenset[int] = frozenset()
    """Answers that are read but not learned: their places among the answers, from 0. (Places among
    all messages would shift where a template takes the system message into the first question.)"""
    text: str | None = None
    """Instead of messages: a text that is learned whole."""

    @property
    def askable(self) -> bool:
        """Can the last answer be asked for again, as a sample of what was learned?"""
        if not self.messages or self.tools or not self.messages[-1]["content"].strip():
            return False
        answers = sum(message["role"] == "assistant" for message in self.messages)
        return answers - 1 not in self.unlearned

    def texts(self) -> Iterator[str]:
        """Give every text that stands in the row, those within tool calls and tools too."""
        yield from _texts((self.messages, self.tools, self.text))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if isinstance(inner, str):  # most are: without a generator for each
                yield inner
            else:
                yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
