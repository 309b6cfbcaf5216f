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

from runner.errors import ModelError, Problem
from runner.training.data.control_tokens import Reader, Readers, RefusedByTemplateError, Tokens
from runner.training.data.conversation import Conversation, Message, UnlearnableRowError
from runner.training.data.extras import Extras
from runner.words import visible

IGNORED = -100  # the label that torch's cross entropy leaves out

Tools = Sequence[dict[str, Any]]
_Made = TypeVar("_Made")

_CHATML = (
    "{{% for message in messages %}}{{{{ {bos}'<|im_start|>' + message['role'] + '\n'"
    " + message['content'] + '{end}' + '\n' }}}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\n' }}}}{{% endif %}}"
)
_IN_PARTS = (
    "{%- set given = namespace(turns=[]) -%}{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{%- set given.turns = given.turns + "
    "[dict(message, content=[{'type': 'text', 'text': message['content']}])] -%}"
    "{%- else -%}{%- set given.turns = given.turns + [message] -%}{%- endif -%}"
    "{%- endfor -%}{%- set messages = given.turns -%}"
)
"""Put before a template that shows messages only as lists of parts (text, picture): LLaVA's and
SmolVLM's drop a message that is a text, without a word."""
_PAD_NAMES = (
    "<|finetune_right_pad_id|>",
    "<pad>",
    "<|pad|>",
    "[PAD]",
    "<|padding|>",
    "<|endoftext|>",
    "<unk>",
)
_TURNS: tuple[Message, ...] = (
    {"role": "user", "content": "Is this a question?"},
    {"role": "assistant", "content": "Yes, Yqz."},
    {"role": "user", "content": "And this?"},
    {"role": "assistant", "content": "It is Yqz too."},
)
"""A conversation on which every template is tried."""
_PROBE = "Zqx"  # stands in for a text whose place in a rendering is looked for
_OTHER_MODEL = "Choose another model, or its variant without thinking."
_BORDER_HINT = "Let the answer begin with a letter or a digit, or choose another model."
_OTHER_ROW = "Leave the row out, or choose another model."
_TOKENS_NAMED = 6  # control tokens named in one note


class _BorderError(UnlearnableRowError):
    """An answer does not begin with a token of its own."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One sequence to train on."""

    input_ids: list[int]
    learned: tuple[tuple[int, int], ...]
    """Stretches that are learned, in their order: the first token and the one behind the last."""

    @property
    def labels(self) -> list[int]:
        """The same ids where they are learned, ``IGNORED`` elsewhere."""
        labels = [IGNORED] * len(self.input_ids)
        for start, stop in self.learned:
            labels[start:stop] = self.input_ids[start:stop]
        return labels

    @property
    def learned_tokens(self) -> int:
        """How many are learned."""
        return sum(stop - start for start, stop in self.learned)

    @property
    def ends(self) -> list[int]:
        """The last token of each stretch that is learned."""
        return [self.input_ids[stop - 1] for _, stop in self.learned]


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """Where an answer stands in a rendering."""

    prompt: str
    """What stands before it: the rendering with the generation prompt at its end."""
    end: str
    """The rendering up to and with the answer and what the template puts after it."""
    text_end: int
    """Where the answer's own text ends and what the template puts after it begins."""
    calls_tools: bool


@dataclass(frozen=True, kw_only=True)
class _Rendering:
    """A text that becomes one example, and the answers in it; without any, it is learned whole."""

    whole: str
    answers: Sequence[_Answer]


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
        self.chat_template = "model's own"
        self.end_ids: set[int] = set()
        self.noted = Noted()
        self._tails: dict[tuple[Any, ...], str] = {}
        if not getattr(tokenizer, "is_fast", False):
            raise self._refusal("its tokenizer cannot say where each token came from (not 'fast')")
        self._bos = tokenizer.bos_token_id
        self._adds_bos = self._bos is not None and tokenizer("a")["input_ids"][:1] == [self._bos]
        self._special = {
            number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special or number == tokenizer.eos_token_id
        }
        if isinstance(tokenizer.chat_template, str):
            self._require_readable(tokenizer.chat_template)
        self._readers = Readers(tokenizer, use_words=use_words)
        usual = self._readers.usual
        if not tokenizer.chat_template:
            self._use_chatml()
        elif not _shows_texts(usual):
            self._give_parts()
        self.folds_system = not renders_system(usual)
        self._extras = Extras(lambda messages, tools: _render(usual, messages, tools))
        self._check_template()
        self._choose_pad(embedding_rows)

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
        rendered: Sequence[list[_Rendering] | UnlearnableRowError],
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

    def _renderings(self, conversation: Conversation, reader: Reader) -> list[_Rendering]:
        if conversation.text is not None:
            return [_Rendering(whole=conversation.text, answers=())]
        return self._render_turns(self._extras.fit(conversation), reader)

    def _examples(
        self,
        conversation: Conversation,
        rendered: list[_Rendering] | UnlearnableRowError,
        read: Sequence[Tokens],
        reader: Reader,
    ) -> list[Example]:
        if isinstance(rendered, UnlearnableRowError):
            raise rendered
        if conversation.text is not None:
            return [self._text_example(read[0].ids)]
        try:
            return [
                self._mark(rendering, tokens, reader)
                for rendering, tokens in zip(rendered, read, strict=True)
            ]
        except _BorderError:
            conversation = self._extras.fit(conversation)
            cut = replace(
                conversation, messages=tuple(map(_without_leading_blank, conversation.messages))
            )
            if cut == conversation:
                raise
            # Blank space that the tokenizer joins with the line break before the answer.
            examples = [
                self._mark(rendering, reader.tokens(rendering.whole), reader)
                for rendering in self._render_turns(cut, reader)
            ]
            self.noted.rows_cut += 1
            return examples

    @property
    def ends(self) -> list[int]:
        """Tokens that generation has to stop at: those learned; before any row, the template's."""
        return sorted(self.noted.learned_ends or self.end_ids)

    @property
    def ending(self) -> set[int]:
        """Every token that can end a turn: the control tokens, and the tokenizer's own end."""
        return self._special

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

    # -- one row ---------------------------------------------------------------------------------

    def _prepared(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Move a system message into the first question where the template has no place for it."""
        if not self.folds_system or not messages or messages[0]["role"] != "system":
            return tuple(messages)
        folded = "the template has no system role: system prompts stand before the first question"
        self.noted.notes[folded] = None
        return fold_system(messages)

    def _text_example(self, ids: list[int]) -> Example:
        end = self.tokenizer.eos_token_id
        if end is None:
            raise UnlearnableRowError(
                "the model has no end token to learn after a text",
                hint="Write the rows as question and answer, or choose another model.",
            )
        ids = [*ids, end]
        bos = [self._bos] if self._adds_bos else []
        return Example(input_ids=bos + ids, learned=((len(bos), len(bos) + len(ids)),))

    def _render_turns(self, conversation: Conversation, reader: Reader) -> list[_Rendering]:
        return self._render_messages(
            self._prepared(conversation.messages),
            reader,
            tools=conversation.tools,
            unlearned=conversation.unlearned,
        )

    def _render_messages(
        self,
        messages: tuple[Message, ...],
        reader: Reader,
        *,
        tools: Tools = (),
        unlearned: frozenset[int] = frozenset(),
    ) -> list[_Rendering]:
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
        whole = last or _render(reader, messages, tools)
        if all(whole.startswith(a.prompt) and whole.startswith(a.end) for a in answers):
            return [_Rendering(whole=whole, answers=answers)]
        # The template shows earlier turns differently once the conversation has gone on (thinking
        # that is dropped, an end that moves): each answer is learned as it was first seen.
        return [_Rendering(whole=answer.end, answers=[answer]) for answer in answers]

    def _find_answer(self, messages: tuple[Message, ...], reader: Reader, tools: Tools) -> _Answer:
        prompt = _render(reader, messages[:-1], tools, generation_prompt=True)
        end = _render(reader, messages, tools)
        if not end.startswith(prompt) or len(end) <= len(prompt):
            raise UnlearnableRowError(
                "the template's generation prompt is not how it begins an answer", hint=_OTHER_MODEL
            )
        calls_tools = bool(messages[-1].get("tool_calls"))
        tail = "" if calls_tools else self._tail(messages, reader, tools)
        if not end.endswith(tail):
            raise UnlearnableRowError(
                "the template ends this answer as it ends no other", hint=_OTHER_ROW
            )
        text_end = len(prompt) if calls_tools else len(end) - len(tail)
        return _Answer(prompt=prompt, end=end, text_end=text_end, calls_tools=calls_tools)

    def _tail(self, messages: tuple[Message, ...], reader: Reader, tools: Tools) -> str:
        """Give what the template puts after the last answer's text, whatever that text is.

        It is measured once for each sequence of roles, with another text in the answer's place.
        """
        key = (reader is self._readers.usual, bool(tools), *map(_kind_of, messages))
        if key not in self._tails:
            probed = (*messages[:-1], {**messages[-1], "content": _PROBE})
            _, found, tail = _render(reader, probed, tools).rpartition(_PROBE)
            if not found:
                raise UnlearnableRowError(
                    "its template does not show answers as they are", hint=_OTHER_ROW
                )
            self._tails[key] = tail
        return self._tails[key]

    def _mark(self, rendering: _Rendering, tokens: Tokens, reader: Reader) -> Example:
        """Label each answer of a rendering up to and with the token that ends it."""
        ids = tokens.ids
        if self._bos is not None and ids[:2] == [self._bos, self._bos]:
            raise UnlearnableRowError(
                "the template begins with two begin-of-text tokens", hint=_OTHER_MODEL
            )
        learned: list[tuple[int, int]] = []
        for answer in rendering.answers:
            start = self._border(rendering.whole, len(answer.prompt), tokens, reader)
            stop = self._end_token(answer, start, tokens) + 1
            if learned and start <= learned[-1][1]:  # answers with nothing between them
                start = learned.pop()[0]
            learned.append((start, stop))
        return Example(input_ids=ids, learned=tuple(learned))

    def _end_token(self, answer: _Answer, start: int, tokens: Tokens) -> int:
        """Find the token that ends an answer: the first control token after the answer's text.

        A token may swallow blanks before it, so it is its own end that lies behind the text. After
        tool calls, which hold control tokens of their own, it is the last one that ends an answer.
        """
        ids = tokens.ids
        control = [
            k
            for k, _, end in tokens.controls
            if k >= start and ids[k] in self._special and answer.text_end < end <= len(answer.end)
        ]
        if answer.calls_tools:
            control = [k for k in control if ids[k] in self.end_ids][-1:] or control[-1:]
        if not control:
            raise UnlearnableRowError(
                "the template ends an answer with no token of its own", hint=_OTHER_ROW
            )
        return control[0]

    def _border(self, whole: str, at: int, tokens: Tokens, reader: Reader) -> int:
        """Find the first token of an answer that begins at character ``at``."""
        ids = tokens.ids
        kept, tail = self._prompt_ids(whole, at, tokens, reader)
        if ids[kept : kept + len(tail)] == tail:
            return kept + len(tail)  # the very tokens that the model is given at use
        # Some tokenizers join line breaks otherwise when text follows. Such a prompt still masks
        # exactly, unless a token stands across the border. Offsets may hide a token's leading
        # space (Ġ, or ▁), so its spelling is looked at too.
        offsets = tokens.offsets
        start = next((k for k, (begin, _) in enumerate(offsets) if begin >= at), len(ids))
        across = any(begin < at < stop for begin, stop in offsets)
        if not across and start < len(ids) and not whole[at].isspace():
            spelled = str(self.tokenizer.convert_ids_to_tokens(ids[start]))
            across = spelled.startswith(("Ġ", "Ċ", "▁", " ", "\n"))
        if across or start == len(ids):
            raise _BorderError("a token stands across the border of an answer", hint=_BORDER_HINT)
        return start

    def _prompt_ids(
        self, whole: str, at: int, tokens: Tokens, reader: Reader
    ) -> tuple[int, list[int]]:
        """Tokenise the text before ``at`` as if nothing followed.

        A tokenizer parts the text at control tokens first and reads each part by itself: what lies
        before the last of them is read already. That halves the time that preparing takes.

        Returns:
            How many of ``ids`` come first, and the ids after them.
        """
        for k, begin, end in reversed(tokens.controls):
            if end <= at and tokens.ids[k] in self._special:
                return k, reader.ids(whole[begin:at])
        return 0, reader.ids(whole[:at])

    # -- the template, once ----------------------------------------------------------------------

    def _refusal(self, why: str) -> ModelError:
        return ModelError(
            [
                Problem(
                    field="model",
                    found=self.model_name,
                    message=f"only answers are learned, and this model does not allow it: {why}",
                    hint=_OTHER_MODEL,
                )
            ]
        )

    def _require_readable(self, source: str) -> None:
        from jinja2 import TemplateSyntaxError
        from transformers.utils.chat_template_utils import _compile_jinja_template

        try:
            _compile_jinja_template(source)
        except TemplateSyntaxError as error:
            why = visible(str(error.message))
            what = f"the model's chat template is damaged, from its line {error.lineno} on: {why}"
            hint = "Fetch the model again, or correct its chat_template.jinja."
            problem = Problem(field="model", found=self.model_name, message=what, hint=hint)
            raise ModelError([problem]) from None

    def _use_chatml(self) -> None:
        """Give a base model without a chat template ChatML, with an end token that it knows."""
        if self.tokenizer.eos_token is None:
            raise self._refusal("it has neither a chat template nor an end token")
        known = "<|im_end|>" in self.tokenizer.get_vocab()
        end = "<|im_end|>" if known else self.tokenizer.eos_token
        bos = "(bos_token if loop.first else '') + " if self._adds_bos else ""
        self.tokenizer.chat_template = _CHATML.format(bos=bos, end=end)
        self.chat_template = "ChatML"
        what = f"the model has no chat template: ChatML is used, with {end} as the end of a turn"
        self.noted.notes[what] = None

    def _give_parts(self) -> None:
        """Let a template that wants messages in parts take texts, too, where that is all it lacks.

        The change travels with the template, into the adapter's folder and whoever reads it there.
        """
        own = self.tokenizer.chat_template
        if isinstance(own, str):
            self.tokenizer.chat_template = _IN_PARTS + own
            if _shows_texts(self._readers.usual):
                self.chat_template = "model's own, given texts as parts"
                return
        self.tokenizer.chat_template = own

    def _check_template(self) -> None:
        """Mark a small conversation, so that a template that cannot be exact is refused at once."""
        try:
            for messages in (_TURNS[:2], _TURNS):
                for rendering in self._render_messages(messages, self._readers.usual):
                    example = self._mark(
                        rendering, self._readers.usual.tokens(rendering.whole), self._readers.usual
                    )
                    learned = [label for label in example.labels if label != IGNORED]
                    if "Yqz" not in self.tokenizer.decode(learned):
                        raise self._refusal("its template does not show answers as they are")
                    self.end_ids.add(learned[-1])
        except UnlearnableRowError as error:
            raise self._refusal(str(error)) from None

    def _choose_pad(self, embedding_rows: int | None) -> None:
        """Pad with a token that ends nothing: a learned pad would never be told from an end."""
        tokenizer = self.tokenizer
        taken = {tokenizer.eos_token_id, *self.end_ids}

        def fits(number: int) -> bool:
            return number not in taken and (embedding_rows is None or number < embedding_rows)

        if tokenizer.pad_token_id is not None and fits(tokenizer.pad_token_id):
            return
        vocabulary = tokenizer.get_vocab()
        names = [name for name in _PAD_NAMES if name in vocabulary]
        names += [tokenizer.unk_token] if tokenizer.unk_token else []
        names += [str(tokenizer.convert_ids_to_tokens(n)) for n in sorted(self._special)]
        # Padding is masked out of attention and loss, so a begin-of-text token can serve as well.
        free = [name for name in names if fits(vocabulary[name])]
        free.sort(key=lambda name: vocabulary[name] == self._bos)
        if not free:
            raise self._refusal("its tokenizer has no token that can pad rows and ends nothing")
        tokenizer.pad_token = free[0]


def _shows_texts(reader: Reader) -> bool:
    """Tell whether a question that is a text reaches the model."""
    try:
        return _PROBE in reader.render([{"role": "user", "content": _PROBE}])
    except RefusedByTemplateError:
        return False


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


def _render(
    reader: Reader,
    messages: Sequence[Message],
    tools: Tools,
    *,
    generation_prompt: bool = False,
) -> str:
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
