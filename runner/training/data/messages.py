"""Messages: lists of messages as rows write them, read into one form, their order checked."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

from runner.training.data.cells import (
    BadRowError,
    as_text,
    missing,
    parsed,
    whole_characters,
    yes_or_no,
)
from runner.training.data.columns import (
    MESSAGE,
    Key,
    Meaning,
    Use,
    is_name,
    message_key,
    normalised,
    said_within,
    shown,
)
from runner.training.data.conversation import Message

_CALL_ROLES = ("function_call", "tool_call")
"""ShareGPT: a call that is a message of its own, its JSON the content."""
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "nutzer", "benutzer"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "model", "bot", "ai", "assistent", *_CALL_ROLES),
        "assistant",
    ),
    **dict.fromkeys(
        ("tool", "function", "observation", "tool_response", "function_response", "ipython"), "tool"
    ),
}
_TEXT_PARTS = ("text", "input_text", "output_text")
_THINKING_PARTS = ("thinking", "reasoning")
_ONLY_TEXT = "Keep the text alone, or leave these rows out."


@dataclass(kw_only=True)
class Talk:
    """What is read of one row's messages."""

    messages: list[Message] = field(default_factory=list)
    unlearned: set[int] = field(default_factory=set)
    """Answers that are marked as not to be learned, by their place among the answers."""
    tool_words: dict[str, None] = field(default_factory=dict)
    """What the row calls its tools by."""
    objects: dict[str, None] = field(default_factory=dict)
    """Columns and keys that hold an object or a list where a text is usual."""
    unread: dict[str, None] = field(default_factory=dict)
    """Keys that hold something and are not read."""
    marked_questions: bool = False
    """A question is marked to be learned; questions never are."""

    @property
    def answers(self) -> int:
        """How many there are."""
        return sum(message["role"] == "assistant" for message in self.messages)


def read_messages(value: Any, column: str, talk: Talk) -> None:
    """Read a list of messages, a JSON text of it too, onto the end of ``talk``.

    Raises:
        BadRowError: in words without content.
    """
    listed = parsed(value, column)
    if not isinstance(listed, list):
        what = f"{column!r} is not a list of messages"
        raise BadRowError(what, hint='Write [{"role": "user", "content": "…"}, …].')
    if any(not isinstance(item, dict) for item in listed):
        what = f"{column!r} holds something that is not a message"
        raise BadRowError(what, hint='Write each message as {"role": "…", "content": "…"}.')
    for item in listed:  # all of them first: what is wrong with one names the others, too
        for name, held in item.items():
            meaning = message_key(name).meaning
            word = _word(held) if meaning is Meaning.ROLE else ""
            if word in _CALL_ROLES or ROLES.get(word) == "tool":
                talk.tool_words[word] = None
            elif meaning in (Meaning.CALLS, Meaning.CALL) and not missing(held):
                talk.tool_words[name] = None
    for item in listed:
        _read_message(item, talk)


def _read_message(item: dict[str, Any], talk: Talk) -> None:
    found = _by_meaning(item, talk)
    role, written = _role(found.get(Meaning.ROLE), item)
    message: Message = {"role": role}
    thinking: list[str] = []
    if written in _CALL_ROLES:
        message["content"] = ""
        message["tool_calls"] = _calls(found.get(Meaning.CONTENT), talk)
    else:
        message["content"] = _content(found.get(Meaning.CONTENT), thinking, talk)
    for meaning in (Meaning.CALLS, Meaning.CALL):
        if meaning in found:
            message["tool_calls"] = _calls(found[meaning], talk)
    _put_thinking(found.get(Meaning.THINKING), thinking, message, talk)
    if role == "tool":
        for meaning, key in ((Meaning.CALL_ID, "tool_call_id"), (Meaning.NAME, "name")):
            if meaning in found:
                message[key] = as_text(found[meaning][1], key)
    elif Meaning.NAME in found:
        talk.unread[found[Meaning.NAME][0]] = None
    if "tool_calls" in message and role != "assistant":
        what = "a message that is not the assistant's calls tools"
        raise BadRowError(what, hint="Give the call to a message of the role assistant.")
    learned = _learned(found)
    if role == "assistant" and not learned:
        talk.unlearned.add(talk.answers)
    elif role == "user" and learned and Meaning.WEIGHT in found:
        talk.marked_questions = True
    talk.messages.append(message)


def _put_thinking(
    found: tuple[str, Any] | None, thinking: list[str], message: Message, talk: Talk
) -> None:
    """Put what is thought before an answer beside it; of other messages it is not read."""
    name, value = found or ("thinking", "")
    if found:
        thinking = [*thinking, as_text(value, name)]
    if thinking and message["role"] == "assistant":
        message["reasoning_content"] = "\n\n".join(thinking)
    elif thinking:
        talk.unread[name] = None


def _by_meaning(item: dict[str, Any], talk: Talk) -> dict[Meaning, tuple[str, Any]]:
    """Find what each key means; a key twice, or one that cannot be honoured, refuses the row."""
    found: dict[Meaning, tuple[str, Any]] = {}
    for name, value in item.items():
        if missing(value) and message_key(name).meaning is not Meaning.CONTENT:
            continue
        key: Key = message_key(name)
        if key.use is Use.REFUSED and not (key.is_switch and yes_or_no(value) is False):
            raise BadRowError(f"a message holds {shown([name])}: {key.reason}", hint=key.hint)
        if key.use is Use.UNREAD:
            talk.unread[name] = None
        if key.use is Use.HARMLESS:
            talk.unread |= dict.fromkeys(said_within(name, value))
        if key.meaning is None:
            continue
        before = found.get(key.meaning)
        if before is not None and missing(before[1]):
            before = None
        if before is not None and not missing(value) and not _same(key.meaning, before[1], value):
            what = f"a message holds both {before[0]} and {name}, and they differ"
            raise BadRowError(what, hint="Keep one of the two.")
        if before is None:
            found[key.meaning] = (name, value)
    return found


def _same(meaning: Meaning, one: Any, other: Any) -> bool:
    """Tell whether two keys say the same: ``user`` and ``human`` do."""
    if meaning is Meaning.ROLE and _word(one) in ROLES:
        return ROLES[_word(one)] == ROLES.get(_word(other))
    return bool(one == other)


def _role(found: tuple[str, Any] | None, item: dict[str, Any]) -> tuple[str, str]:
    """Give a message's role as templates know it, and as it is written."""
    hint = "Use the roles system, user, assistant and tool (or human and gpt)."
    if found is None:
        others = [name for name in item if message_key(name).meaning is not Meaning.ROLE]
        what = "a message has no role" + (f"; it holds {shown(others)}" if others else "")
        hint = 'Write each message as {"role": "user" or "assistant", "content": "…"}.'
        raise BadRowError(what, hint=hint)
    written = _word(found[1])
    role = ROLES.get(written)
    if role is None:
        named = f" {shown([found[1]])!r}" if isinstance(found[1], str) and is_name(found[1]) else ""
        raise BadRowError(f"the role{named} of a message is not known", hint=hint)
    return role, written


def _word(role: Any) -> str:
    return normalised(role) if isinstance(role, str) else ""


def _learned(found: dict[Meaning, tuple[str, Any]]) -> bool:
    if Meaning.WEIGHT not in found:
        return True
    return weight(found[Meaning.WEIGHT][1], found[Meaning.WEIGHT][0])


def weight(value: Any, name: str) -> bool:
    """Tell whether a weight says learn (1, true) or only read (0, false).

    Raises:
        BadRowError: it is something in between.
    """
    learned = yes_or_no(value)
    if learned is None:
        what = f"{name} is neither 0 nor 1 (false nor true): an answer is learned or only read"
        raise BadRowError(what, hint=f"Write {name}: 1 or {name}: 0, or delete it.")
    return learned


def _content(found: tuple[str, Any] | None, thinking: list[str], talk: Talk) -> str:
    """Take text, or a list of text parts; thinking among them goes apart."""
    if found is None:
        return ""
    name, value = found
    if not isinstance(value, list):
        empty = missing(value) and not isinstance(value, str)
        return "" if empty else inner_text(value, name, talk)
    return "".join(_part(part, name, thinking, talk) for part in value)


def inner_text(value: Any, name: str, talk: Talk) -> str:
    """Give a cell's text; an object that wraps nothing but a text is that text.

    Google writes ``{"parts": [{"text": …}]}``, ChatGPT ``{"content_type": "text", "parts": […]}``.
    """
    wrapped = _wrapped(value)
    if wrapped is None:
        if isinstance(value, dict | list):
            talk.objects[name] = None
        return as_text(value, name)
    if isinstance(wrapped, str):
        return as_text(wrapped, name)
    return "".join(_part(part, name, [], talk) for part in wrapped)


def _wrapped(value: Any) -> str | list[Any] | None:
    """Find the only text of an object: the one key that is not a kind or a role beside it."""
    if not isinstance(value, dict):
        return None
    rest = [key for key in value if key not in ("type", "role", "content_type")]
    inner = value[rest[0]] if len(rest) == 1 and rest[0] in ("text", "content", "parts") else None
    if isinstance(inner, list):
        texts = all(isinstance(p, str) or (isinstance(p, dict) and "text" in p) for p in inner)
        return inner if texts else None
    return inner if isinstance(inner, str) else None


def _part(part: Any, name: str, thinking: list[str], talk: Talk) -> str:
    if isinstance(part, str):
        return whole_characters(part, name)
    if isinstance(part, dict):
        _check_beside(part, talk)
    kind = part.get("type", "text") if isinstance(part, dict) else None
    if kind in _TEXT_PARTS and isinstance(part.get("text"), str):
        return whole_characters(part["text"], name)
    if kind in _THINKING_PARTS and isinstance(part.get(kind), str):
        thinking.append(whole_characters(part[kind], name))
        return ""
    named = f" ({shown([kind])})" if isinstance(kind, str) and is_name(kind) else ""
    raise BadRowError(f"a message holds something other than text{named}", hint=_ONLY_TEXT)


def _check_beside(part: dict[str, Any], talk: Talk) -> None:
    """Refuse a part whose other keys say something that cannot be done for a part alone.

    Raises:
        BadRowError: it is not learned, or holds a picture beside its text.
    """
    for name, value in part.items():
        key = message_key(name)
        if missing(value) or name in ("type", *_THINKING_PARTS):
            continue
        if key.meaning is Meaning.WEIGHT and not weight(value, name):
            key = MESSAGE["mask"]
        if key.use is Use.REFUSED and not (key.is_switch and yes_or_no(value) is False):
            raise BadRowError(f"a message holds {shown([name])}: {key.reason}", hint=key.hint)
        if key.use is Use.UNREAD:
            talk.unread[name] = None


# -- tools -------------------------------------------------------------------------------------


def _calls(found: tuple[str, Any] | None, talk: Talk) -> list[dict[str, Any]]:
    words = ", ".join(talk.tool_words)
    value = parsed(found[1], found[0]) if found else None
    calls = value if isinstance(value, list) else [value]
    return [_call(call, words) for call in calls]


def _call(value: Any, words: str) -> dict[str, Any]:
    """Bring a call into the form that templates read: a name, and arguments as an object."""
    inner = value.get("function", value) if isinstance(value, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or not isinstance(name, str) or not name.strip():
        what = f"the row calls tools ({words}), and a call has no name"
        raise BadRowError(what, hint='Write a call as {"name": "…", "arguments": {…}}.')
    arguments = inner.get("arguments", inner.get("parameters"))
    arguments = {} if missing(arguments) else parsed(arguments, "arguments")
    if not isinstance(arguments, dict):
        what = f"the row calls tools ({words}), and the arguments of a call are not an object"
        raise BadRowError(what, hint='Write them as {"name of the argument": value, …}.')
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    if isinstance(value, dict) and isinstance(value.get("id"), str):
        call = {"id": value["id"], **call}
    as_text(call, "tool_calls")
    return call


def read_tools(value: Any, column: str) -> tuple[dict[str, Any], ...]:
    """Read the tools of a row: a list of JSON Schemas, or its JSON as a text.

    Raises:
        BadRowError: it is not that.
    """
    listed = parsed(value, column)
    tools: list[dict[str, Any]] = []
    for tool in listed if isinstance(listed, list) else [listed]:
        inner = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            what = f"{column!r} is not a list of tools"
            hint = 'Write [{"name": "…", "description": "…", "parameters": {…}}, …].'
            raise BadRowError(what, hint=hint)
        tools.append(tool if inner is not tool else {"type": "function", "function": tool})
    as_text(tools, column)
    return tuple(tools)


# -- order -------------------------------------------------------------------------------------


def check_order(messages: list[Message]) -> None:
    """Require what every template can render: a question first, an answer last.

    Raises:
        BadRowError: in words without content.
    """
    turns = [message for message in messages if message["role"] != "system"]
    if not turns:
        raise BadRowError("the row has no messages", hint="Write its messages, or delete the row.")
    if any(message["role"] == "system" for message in messages[1:]):
        what = "a system message stands elsewhere than first"
        raise BadRowError(what, hint="Move it to the beginning, or delete it.")
    if all(message["role"] != "assistant" for message in turns):
        raise BadRowError("the row has no answer", hint="Add the answer, or delete the row.")
    if turns[0]["role"] != "user":
        what = "the conversation does not begin with the user"
        raise BadRowError(what, hint="Leave out the greeting before the first question.")
    if turns[-1]["role"] != "assistant":
        what = "the row has no answer at its end: its last message is not the assistant's"
        raise BadRowError(what, hint="Leave out what follows the last answer, or add its answer.")
    for before, after in itertools.pairwise(turns):
        _check_pair(before, after)
    for message in turns:
        _check_filled(message)


def _check_pair(before: Message, after: Message) -> None:
    pair = (before["role"], after["role"])
    if pair == ("user", "user"):
        what = "two questions (user messages) follow each other"
        raise BadRowError(what, hint="Join the two questions into one message.")
    if pair == ("assistant", "assistant"):
        what = "two answers (assistant messages) follow each other"
        hint = "Join the two answers into one message, or put the missing question between them."
        raise BadRowError(what, hint=hint)
    if pair == ("user", "tool"):
        what = "a tool's result (tool) follows a question, and nothing called the tool"
        raise BadRowError(what, hint="Put the assistant's call (tool_calls) before it.")
    if pair == ("tool", "user"):
        what = "a question follows a tool's result (tool), and no answer stands between them"
        raise BadRowError(what, hint="Add the assistant's answer between them.")


def _check_filled(message: Message) -> None:
    if not missing(message["content"]) or message.get("tool_calls") or message["role"] == "tool":
        return
    if message["role"] == "assistant":
        raise BadRowError(
            "the row has no answer: it is empty", hint="Write the answer, or delete the row."
        )
    raise BadRowError("a question is empty", hint="Write the question, or delete the row.")


def is_message(value: Any) -> bool:
    """Tell a message: it has a role that is known, and something said."""
    if not isinstance(value, dict):
        return False
    roles = [held for name, held in value.items() if message_key(name).meaning is Meaning.ROLE]
    said = any(message_key(name).meaning in _SAID for name in value)
    return said and any(_word(role) in ROLES for role in roles)


_SAID = (Meaning.CONTENT, Meaning.CALLS, Meaning.CALL)


def is_list_of_messages(value: Any) -> bool:
    """Tell messages from a text, where either may stand; JSON in a CSV file is seen too."""
    if isinstance(value, str):
        if not value.lstrip().startswith("[{"):
            return False
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    return isinstance(value, list) and any(
        isinstance(item, dict) and ("role" in item or "from" in item) for item in value
    )
