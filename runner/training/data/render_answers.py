"""Render a conversation by its chat template, and find where each answer stands in the text.

An answer is what a rendering has beyond the same conversation with the generation prompt at its
end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.training.data.control_tokens import Reader, RefusedByTemplateError
from runner.training.data.conversation import Message, UnlearnableRowError
from runner.words import visible

Tools = Sequence[dict[str, Any]]

OTHER_MODEL = "Choose another model, or its variant without thinking."
OTHER_ROW = "Leave the row out, or choose another model."
_PROBE = "Zqx"  # stands in for a text whose place in a rendering is looked for


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Where an answer stands in a rendering."""

    prompt: str
    """What stands before it: the rendering with the generation prompt at its end."""
    end: str
    """The rendering up to and with the answer and what the template puts after it."""
    text_end: int
    """Where the answer's own text ends and what the template puts after it begins."""
    calls_tools: bool


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """A text that becomes one example, and the answers in it; without any, it is learned whole."""

    whole: str
    answers: Sequence[Answer]


class Renderer:
    """A chat template, and what it was seen to put behind answers."""

    def __init__(self, usual: Reader) -> None:
        """Begin with no template's ends known.

        Args:
            usual: the reader of rows that spell no control token.
        """
        self._usual = usual
        self._tails: dict[tuple[Any, ...], str] = {}

    def render(
        self,
        messages: tuple[Message, ...],
        reader: Reader,
        *,
        tools: Tools = (),
        unlearned: frozenset[int] = frozenset(),
    ) -> list[Rendering]:
        """Render messages: as one text, or as one for each answer where the template needs it.

        Args:
            messages: with one answer at least.
            reader: the usual one, or the one that reads control tokens as text.
            tools: what the model may call.
            unlearned: answers that are not learned, by their number among the answers.

        Raises:
            UnlearnableRowError: it cannot be rendered exactly.
        """
        places = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        places = [i for number, i in enumerate(places) if number not in unlearned]
        if not places:
            raise UnlearnableRowError(
                "no answer of the row is to be learned",
                hint="Mark one with weight: 1, or leave the row out.",
            )
        answers = [self._find_answer(messages[: i + 1], reader, tools) for i in places]
        # Where the last message is an answer to learn, it was rendered with all before it already.
        last = answers[-1].end if places[-1] == len(messages) - 1 else None
        whole = last or render(reader, messages, tools)
        if all(whole.startswith(a.prompt) and whole.startswith(a.end) for a in answers):
            return [Rendering(whole=whole, answers=answers)]
        # The template shows earlier turns differently once the conversation has gone on (thinking
        # that is dropped, an end that moves): each answer is learned as it was first seen.
        return [Rendering(whole=answer.end, answers=[answer]) for answer in answers]

    def _find_answer(self, messages: tuple[Message, ...], reader: Reader, tools: Tools) -> Answer:
        prompt = render(reader, messages[:-1], tools, generation_prompt=True)
        end = render(reader, messages, tools)
        if not end.startswith(prompt) or len(end) <= len(prompt):
            raise UnlearnableRowError(
                "the template's generation prompt is not how it begins an answer", hint=OTHER_MODEL
            )
        calls_tools = bool(messages[-1].get("tool_calls"))
        tail = "" if calls_tools else self._tail(messages, reader, tools)
        if not end.endswith(tail):
            raise UnlearnableRowError(
                "the template ends this answer as it ends no other", hint=OTHER_ROW
            )
        text_end = len(prompt) if calls_tools else len(end) - len(tail)
        return Answer(prompt=prompt, end=end, text_end=text_end, calls_tools=calls_tools)

    def _tail(self, messages: tuple[Message, ...], reader: Reader, tools: Tools) -> str:
        """Give what the template puts after the last answer's text, whatever that text is.

        It is measured once for each sequence of roles, with another text in the answer's place.
        """
        key = (reader is self._usual, bool(tools), *map(_kind_of, messages))
        if key not in self._tails:
            probed = (*messages[:-1], {**messages[-1], "content": _PROBE})
            _, found, tail = render(reader, probed, tools).rpartition(_PROBE)
            if not found:
                raise UnlearnableRowError(
                    "its template does not show answers as they are", hint=OTHER_ROW
                )
            self._tails[key] = tail
        return self._tails[key]


def render(
    reader: Reader,
    messages: Sequence[Message],
    tools: Tools,
    *,
    generation_prompt: bool = False,
) -> str:
    """Render messages; a row that the template refuses is said to be so.

    Raises:
        UnlearnableRowError: the template refuses it, with its reason.
    """
    try:
        return reader.render(messages, generation_prompt=generation_prompt, tools=tools)
    except RefusedByTemplateError as error:
        why = f": {visible(str(error))}" if str(error) else ""
        hint = (
            "Write the row as questions and answers in turn, with a system message first at most, "
            "or leave it out. Other models' templates may take it as it is."
        )
        what = f"the model's chat template refuses the row{why}"
        raise UnlearnableRowError(what, hint=hint) from None


def _kind_of(message: Message) -> tuple[Any, ...]:
    """Name what a template may go by other than a message's texts."""
    return (message["role"], *sorted(key for key, value in message.items() if value))
