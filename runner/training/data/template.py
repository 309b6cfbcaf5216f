"""Chat template: a conversation's token ids, and labels by which only the answers are learned.

The model's own chat template renders; nothing is known about any template by name. An answer is
what a rendering has beyond the same conversation with the generation prompt at its end, up to and
with the token that ends the turn. Where that cannot be made exact, the job is refused with the
reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from runner.training.data.choose_template import (
    choose_pad,
    choose_template,
    refusal,
    require_readable,
)
from runner.training.data.control_tokens import Reader, Readers, Tokens
from runner.training.data.conversation import Conversation, Message, UnlearnableRowError
from runner.training.data.extras import Extras
from runner.training.data.mark_answers import IGNORED, BorderError, Example, Marker
from runner.training.data.render_answers import Renderer, Rendering, render
from runner.training.data.system_message import fold_system, renders_system
from runner.words import visible

_Made = TypeVar("_Made")

_TURNS: tuple[Message, ...] = (
    {"role": "user", "content": "Is this a question?"},
    {"role": "assistant", "content": "Yes, Yqz."},
    {"role": "user", "content": "And this?"},
    {"role": "assistant", "content": "It is Yqz too."},
)
"""A conversation on which every template is tried."""
_TOKENS_NAMED = 6  # control tokens named in one note


@dataclass(kw_only=True)
class Noted:
    """What the rows that were encoded so far have shown; those of several processes add up."""

    notes: dict[str, None] = field(default_factory=dict)
    plain_rows: Counter[str] = field(default_factory=Counter)
    """Rows that spell a control token, by its name."""
    rows_read_plain: int = 0
    rows_cut: int = 0
    """Rows of which blank space at the beginning of an answer was cut off."""
    learned_ends: set[int] = field(default_factory=set)
    """Ends of all that was encoded so far: what generation has to stop at."""

    def take(self, other: Noted) -> None:
        """Add what other rows have shown."""
        self.notes.update(other.notes)
        self.plain_rows.update(other.plain_rows)
        self.rows_read_plain += other.rows_read_plain
        self.rows_cut += other.rows_cut
        self.learned_ends |= other.learned_ends


class Template:
    """A tokenizer and its chat template, checked once and then applied to every row."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        name: str,
        embedding_rows: int | None = None,
        use_words: bool = True,
    ) -> None:
        """Make the tokenizer ready for training: a chat template, and a pad that ends nothing.

        Args:
            tokenizer: the base model's; it is changed.
            name: the model, as the spec says it.
            embedding_rows: token ids that the model has a row for, where its config tells.
            use_words: much data may be read by known words (`known_words.py`).

        Raises:
            ModelError: answers cannot be told apart exactly in this template.
        """
        self.tokenizer = tokenizer
        self.model_name = name
        self.noted = Noted()
        if not getattr(tokenizer, "is_fast", False):
            why = "its tokenizer cannot say where each token came from (not 'fast')"
            raise refusal(name, why)
        self.marker = Marker(tokenizer)
        if isinstance(tokenizer.chat_template, str):
            require_readable(tokenizer.chat_template, name)
        self._readers = Readers(tokenizer, use_words=use_words)
        usual = self._readers.usual
        chosen = choose_template(tokenizer, usual, name=name, adds_bos=self.marker.adds_bos)
        self.chat_template = chosen.whose
        if chosen.note:
            self.noted.notes[chosen.note] = None
        self.folds_system = not renders_system(usual)
        self._extras = Extras(lambda messages, tools: render(usual, messages, tools))
        self._renderer = Renderer(usual)
        self._check_template()
        choose_pad(self.marker, name=name, embedding_rows=embedding_rows)

    @property
    def shortfalls(self) -> list[str]:
        """What the owner of the job should know; complete once every row is encoded."""
        noted = self.noted
        notes = list(noted.notes)
        if noted.plain_rows:
            notes.append(_plain_note(noted.rows_read_plain, noted.plain_rows))
        if noted.rows_cut:
            rows = "1 row" if noted.rows_cut == 1 else f"{noted.rows_cut} rows"
            notes.append(
                f"{rows}: blank space at the beginning of an answer was cut off, because this "
                "model's tokenizer would join it with the end of the question"
            )
        return notes

    def use_no_words(self) -> None:
        """Call the tokenizer for every text from here on."""
        self._readers.usual.use_no_words()

    def give_noted(self) -> Noted:
        """Give what was noted since the last time, to be taken by another process."""
        noted, self.noted = self.noted, Noted()
        return noted

    def encode(self, conversation: Conversation) -> list[Example]:
        """Give the examples of a row: one, or one for each answer where the template needs it.

        Raises:
            UnlearnableRowError: the row cannot be rendered exactly.
        """
        (found,) = self.encode_all([conversation])
        if isinstance(found, UnlearnableRowError):
            raise found
        return found

    def encode_all(
        self, conversations: Sequence[Conversation]
    ) -> list[list[Example] | UnlearnableRowError]:
        """Give the examples of many rows, or why one cannot be rendered exactly.

        They are rendered one by one and tokenised together.
        """
        spelled = [self._readers.spelled_in(c.texts()) for c in conversations]
        readers = [self._readers.plain if s else self._readers.usual for s in spelled]
        rendered = [
            self._try(self._renderings, *row) for row in zip(conversations, readers, strict=True)
        ]
        read = self._read_all(rendered, readers)
        rows = zip(conversations, rendered, read, readers, strict=True)
        found = [self._try(self._examples, *row) for row in rows]
        for tokens, examples in zip(spelled, found, strict=True):
            if isinstance(examples, UnlearnableRowError):
                continue
            self.noted.rows_read_plain += bool(tokens)
            self.noted.plain_rows.update(tokens)
            for example in examples:
                self.noted.learned_ends.update(example.ends)
        return found

    @staticmethod
    def _try(do: Callable[..., _Made], *row: Any) -> _Made | UnlearnableRowError:
        try:
            return do(*row)
        except UnlearnableRowError as error:
            return error.with_traceback(None)

    def _read_all(
        self,
        rendered: Sequence[list[Rendering] | UnlearnableRowError],
        readers: Sequence[Reader],
    ) -> list[list[Tokens]]:
        """Tokenise the renderings of many rows, all of one reader together."""
        read: list[list[Tokens]] = [[] for _ in rendered]
        for reader in set(readers):
            rows = [
                (n, rendering.whole)
                for n, renderings in enumerate(rendered)
                if readers[n] is reader and not isinstance(renderings, UnlearnableRowError)
                for rendering in renderings
            ]
            tokens = reader.tokens_of_all([whole for _, whole in rows])
            for (n, _), one in zip(rows, tokens, strict=True):
                read[n].append(one)
        return read

    def _renderings(self, conversation: Conversation, reader: Reader) -> list[Rendering]:
        if conversation.text is not None:
            return [Rendering(whole=conversation.text, answers=())]
        return self._render_turns(self._extras.fit(conversation), reader)

    def _examples(
        self,
        conversation: Conversation,
        rendered: list[Rendering] | UnlearnableRowError,
        read: Sequence[Tokens],
        reader: Reader,
    ) -> list[Example]:
        if isinstance(rendered, UnlearnableRowError):
            raise rendered
        if conversation.text is not None:
            return [self.marker.text_example(read[0].ids)]
        try:
            return [
                self.marker.mark(rendering, tokens, reader)
                for rendering, tokens in zip(rendered, read, strict=True)
            ]
        except BorderError:
            conversation = self._extras.fit(conversation)
            cut = replace(
                conversation, messages=tuple(map(_without_leading_blank, conversation.messages))
            )
            if cut == conversation:
                raise
            # Blank space that the tokenizer joins with the line break before the answer.
            examples = [
                self.marker.mark(rendering, reader.tokens(rendering.whole), reader)
                for rendering in self._render_turns(cut, reader)
            ]
            self.noted.rows_cut += 1
            return examples

    @property
    def ends(self) -> list[int]:
        """Tokens that generation has to stop at: those learned; before any row, the template's."""
        return sorted(self.noted.learned_ends or self.marker.end_ids)

    @property
    def ending(self) -> set[int]:
        """Every token that can end a turn: the control tokens, and the tokenizer's own end."""
        return self.marker.special

    def stop_where_answers_end(self) -> None:
        """Let the tokenizer's end token be the one that was learned.

        A base model's is often another, `<|endoftext|>`: programs that stop there alone would run
        on. It stays where the template writes it into a prompt, which must not change; then only
        generation_config.json says where to stop.
        """
        tokenizer, ends = self.tokenizer, self.ends
        before = tokenizer.eos_token
        if tokenizer.eos_token_id in ends or len(ends) != 1:
            return
        prompts = self._prompts()
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
        if self._prompts() != prompts:
            tokenizer.eos_token = before

    def _prompts(self) -> list[str]:
        usual = self._readers.usual
        return [usual.render(_TURNS[:n], generation_prompt=True) for n in (1, 3)]

    def prompt_messages(self, conversation: Conversation) -> list[Message]:
        """Give the messages before the last answer, as the model should be asked."""
        return list(self._prepared(conversation.messages)[:-1])

    def _prepared(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Move a system message into the first question where the template has no place for it."""
        if not self.folds_system or not messages or messages[0]["role"] != "system":
            return tuple(messages)
        folded = "the template has no system role: system prompts stand before the first question"
        self.noted.notes[folded] = None
        return fold_system(messages)

    def _render_turns(self, conversation: Conversation, reader: Reader) -> list[Rendering]:
        return self._renderer.render(
            self._prepared(conversation.messages),
            reader,
            tools=conversation.tools,
            unlearned=conversation.unlearned,
        )

    def _check_template(self) -> None:
        """Mark a small conversation, so that a template that cannot be exact is refused at once."""
        try:
            for messages in (_TURNS[:2], _TURNS):
                for rendering in self._renderer.render(messages, self._readers.usual):
                    example = self.marker.mark(
                        rendering, self._readers.usual.tokens(rendering.whole), self._readers.usual
                    )
                    learned = [label for label in example.labels if label != IGNORED]
                    if "Yqz" not in self.tokenizer.decode(learned):
                        raise refusal(
                            self.model_name, "its template does not show answers as they are"
                        )
                    self.marker.end_ids.add(learned[-1])
        except UnlearnableRowError as error:
            raise refusal(self.model_name, str(error)) from None


def _without_leading_blank(message: Message) -> Message:
    content = message.get("content")
    if message["role"] != "assistant" or not isinstance(content, str):
        return message
    return {**message, "content": content.lstrip()}


def _plain_note(rows: int, spelled: Mapping[str, int]) -> str:
    names = [visible(token) for token, _ in Counter(spelled).most_common(_TOKENS_NAMED)]
    more = len(spelled) - len(names)
    named = ", ".join(names) + (f" and {more} more" if more else "")
    what = "1 row spells" if rows == 1 else f"{rows} rows spell"
    return (
        f"{what} control tokens of this model as text ({named}): they are learned as plain text. "
        "Where they were meant to mark turns or the end of an answer, remove them: the model's "
        "chat template adds its own"
    )
