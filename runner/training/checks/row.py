"""One row as the checks see it while it flows by: its place, its text, its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from runner.training.data.conversation import Conversation

NO_TOKEN = -1


class Kind(IntEnum):
    """How a row is written, once it has been read."""

    QUESTION = 0
    CONVERSATION = 1
    TEXT = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenRow:
    """One row."""

    number: int
    """Its place in the data, over all files, from 0."""
    file: str
    line: int
    kind: Kind
    question: str
    """All that stands before the last answer, the system message apart."""
    answer: str
    """The last answer, or the text that is learned whole; empty: it only calls tools."""
    system: str = ""
    tokens: int
    """In its longest example."""
    read: int
    """In all of its examples together."""
    learned: int
    """Those of them that are learned."""
    last: int
    """The last learned token, which should end a turn; -1: an example has none."""


def seen(conversation: Conversation, examples: Sequence[Any]) -> SeenRow:
    """Give a row as the checks see it.

    Args:
        conversation: the row.
        examples: its examples (`template.py`).
    """
    kind, question, answer, system = _text(conversation)
    last = [example.ends[-1] if example.learned else NO_TOKEN for example in examples]
    return SeenRow(
        number=conversation.row,
        file=conversation.file,
        line=conversation.line,
        kind=kind,
        question=question,
        answer=answer,
        system=system,
        tokens=max(len(example.input_ids) for example in examples),
        read=sum(len(example.input_ids) for example in examples),
        learned=sum(example.learned_tokens for example in examples),
        last=NO_TOKEN if NO_TOKEN in last else last[-1],
    )


def _text(conversation: Conversation) -> tuple[Kind, str, str, str]:
    if conversation.text is not None:
        return Kind.TEXT, "", conversation.text, ""
    turns = [m for m in conversation.messages if m["role"] != "system"]
    system = "\n".join(m["content"] for m in conversation.messages if m["role"] == "system")
    answers = [place for place, m in enumerate(turns) if m["role"] == "assistant"]
    last = answers[-1] if answers else len(turns)
    question = "\n".join(m["content"] for m in turns[:last])
    answer = turns[last]["content"] if answers else ""
    return Kind.CONVERSATION if len(answers) > 1 else Kind.QUESTION, question, answer, system
