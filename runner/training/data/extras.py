"""Tool calls and thinking: whether a model's chat template shows them.

A template drops in silence what it does not know. So each key is tried once on a small conversation
with a word that can be looked for, and a row that uses a key which is not shown is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from runner.training.data.conversation import Conversation, Message, UnlearnableRowError

Render = Callable[[Sequence[Message], Sequence[dict[str, Any]]], str]

_WORD = "zqxprobe"
_QUESTION: Message = {"role": "user", "content": "Q"}
_TOOL = {
    "type": "function",
    "function": {
        "name": _WORD,
        "description": "D",
        "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
    },
}
_CALL = {
    "id": "zqx000001",  # nine letters and digits: Mistral's templates refuse all others
    "type": "function",
    "function": {"name": f"{_WORD}call", "arguments": {"a": f"{_WORD}value"}},
}
_CALLING: Message = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_THINKING_KEYS = ("reasoning_content", "thinking", "reasoning", "thought")
"""Names that templates give to what is thought before an answer: Qwen and GLM the first, gpt-oss
the second."""
_NO_TOOLS = (
    "Delete these rows, write the calls as plain text in the answers, or choose a model whose chat "
    "template knows tools."
)


class Extras:
    """What one chat template shows beyond roles and contents."""

    def __init__(self, render: Render) -> None:
        """Take the template's own rendering of messages and tools."""
        self._render = render

    def fit(self, conversation: Conversation) -> Conversation:
        """Give the row with its thinking under the name that the template reads.

        Raises:
            UnlearnableRowError: the row holds something that the template does not show.
        """
        messages = conversation.messages
        calls = any(message.get("tool_calls") for message in messages)
        results = any(message["role"] == "tool" for message in messages)
        lost = [
            *(["tools"] if conversation.tools and not self._shows_tools else []),
            *(["tool_calls"] if calls and not self._shows_calls else []),
            *(["messages of the role tool"] if results and not self._shows_results else []),
        ]
        if lost:
            named = ", ".join(conversation.tool_words or lost)
            what = f"the row calls tools ({named}), and the model's chat template leaves them out"
            raise UnlearnableRowError(what, hint=_NO_TOOLS)
        if not any("reasoning_content" in message for message in messages):
            return conversation
        return replace(conversation, messages=tuple(map(self._with_thinking, messages)))

    def _with_thinking(self, message: Message) -> Message:
        if "reasoning_content" not in message:
            return message
        key = self._thinking_key
        if key is None:
            raise UnlearnableRowError(
                "the row holds thinking (reasoning_content), and the model's chat template leaves "
                "it out",
                hint="Delete reasoning_content from the rows (only the answer is then learned), or "
                "choose a model whose chat template shows it.",
            )
        rest = {k: value for k, value in message.items() if k != "reasoning_content"}
        return {**rest, key: message["reasoning_content"]}

    def _shown(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> str:
        try:
            return self._render(messages, tools)
        except UnlearnableRowError:
            return ""

    @cached_property
    def _shows_tools(self) -> bool:
        return _WORD in self._shown([_QUESTION], [_TOOL])

    @cached_property
    def _shows_calls(self) -> bool:
        shown = self._shown([_QUESTION, _CALLING], [_TOOL]) + self._shown([_QUESTION, _CALLING])
        return f"{_WORD}call" in shown and f"{_WORD}value" in shown

    @cached_property
    def _shows_results(self) -> bool:
        result: Message = {
            "role": "tool",
            "content": f"{_WORD}result",
            "tool_call_id": _CALL["id"],
            "name": f"{_WORD}call",
        }
        end: Message = {"role": "assistant", "content": "A"}
        shown = self._shown([_QUESTION, _CALLING, result, end], [_TOOL])
        return f"{_WORD}result" in shown

    @cached_property
    def _thinking_key(self) -> str | None:
        for key in _THINKING_KEYS:
            answer: Message = {"role": "assistant", "content": "A", key: f"{_WORD}thought"}
            if f"{_WORD}thought" in self._shown([_QUESTION, answer]):
                return key
        return None
