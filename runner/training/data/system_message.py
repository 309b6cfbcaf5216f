"""System message: whether a chat template shows one, and where it goes if it does not."""

from __future__ import annotations

from collections.abc import Sequence

from runner.training.data.control_tokens import Reader, RefusedByTemplateError
from runner.training.data.conversation import Message

_PROBE = "Zqx"  # stands in for a text whose place in a rendering is looked for


def renders_system(reader: Reader) -> bool:
    """Tell whether a system message reaches the model: some templates refuse or drop it."""
    question = {"role": "user", "content": "Q"}
    try:
        return _PROBE in reader.render([{"role": "system", "content": _PROBE}, question])
    except RefusedByTemplateError:
        return False


def fold_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Let a system message stand before the first question, in the same message."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return tuple(messages)
    system, first, *rest = messages
    return ({**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest)
