"""Control tokens: a row that spells one means plain text; only the template gives real ones.

A tokenizer finds its control tokens anywhere in a text: `<s>` on an HTML page would begin a new
text, `<|im_end|>` in a manual would end an answer. Reading the pieces of a rendering one by one
would keep them apart, but a tokenizer treats the beginning of a text in ways of its own (a leading
space, blanks that belong to a token). So the whole is read at once, by a copy of the tokenizer that
knows each control token under a private name, and only those of the template are given that name.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from typing import Any

from runner.training.data.known_words import Controls, KnownWords, WordsDifferError, recognise
from runner.training.data.plain_renderer import PlainRenderer

Offsets = list[tuple[int, int]]

# Unicode's noncharacters: no text holds them, no tokenizer's rule is about them, and a chat
# template that trims or splits leaves them alone.
_SHORT, _SHORT_KEPT = 64, 1000
"""Characters of a text whose ids are remembered, and how many such texts: what a template puts
before each answer is the same in every row."""
_ROW, _ROW_END, _TEMPLATE, _TEMPLATE_END = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"


_WORDS_AFTER = 512  # texts; of less data the tokenizer's own speed is as good
_ALWAYS, _THEN_EVERY = 64, 64
"""So many texts that were read by known words are read by the tokenizer, too, and then the first of
each batch and one in so many: should a token ever differ, the words are not used."""


class Tokens:
    """The tokens of one rendering."""

    def __init__(
        self, ids: list[int], controls: Controls, *, read_offsets: Callable[[], Offsets]
    ) -> None:
        """Take them; where each of them stands is read when somebody asks for it."""
        self.ids, self.controls, self._read_offsets = ids, controls, read_offsets

    @classmethod
    def of(cls, encoded: Any, added: Set[int]) -> Tokens:
        """Take what the tokenizer's inner workings give of a text."""
        ids = encoded.ids
        controls = [
            (k, *encoded.token_to_chars(k)) for k, token in enumerate(ids) if token in added
        ]
        return cls(ids, controls, read_offsets=lambda: encoded.offsets)

    @property
    def offsets(self) -> Offsets:
        """Where each token stands."""
        return self._read_offsets()


class RefusedByTemplateError(Exception):
    """The chat template cannot render these messages; the words are the template's own, if any."""


def control_tokens(tokenizer: Any) -> list[str]:
    """List the spellings that the tokenizer reads as control tokens, the longest first."""
    found = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    found += [token for token in tokenizer.all_special_tokens if token not in found]
    return sorted(found, key=len, reverse=True)


class Reader:
    """Renders messages and reads renderings, exactly as the tokenizer's own template call does."""

    def __init__(self, tokenizer: Any, *, use_words: bool = False) -> None:
        """Hold a fast tokenizer; its chat template may still be set later."""
        self.tokenizer = tokenizer
        self._added = frozenset(tokenizer.added_tokens_decoder)
        self._words: KnownWords | None = None
        self._use_words = use_words
        self._read = self._compared = 0
        self._short: dict[str, tuple[int, ...]] = {}
        self._plainly = PlainRenderer(tokenizer)

    def put_away(self, value: Any) -> Any:
        """Prepare a row's text, message or list of them for rendering."""
        return value

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        generation_prompt: bool = False,
        tools: Sequence[Any] | None = None,
    ) -> str:
        """Render messages as the model sees them.

        Raises:
            RefusedByTemplateError: in words that hold nothing of the row.
        """
        from jinja2.exceptions import TemplateError

        given = self.put_away([dict(message) for message in messages])
        try:
            if not tools and self._plainly.takes(given):
                return self._plainly.render(given, generation_prompt=generation_prompt)
            return str(
                self.tokenizer.apply_chat_template(
                    given,
                    tools=self.put_away(list(tools)) if tools else None,
                    tokenize=False,
                    add_generation_prompt=generation_prompt,
                )
            )
        except (TemplateError, TypeError, KeyError, AttributeError, ValueError) as error:
            # What the template says may quote the row; a sentence of its source does not.
            said = str(error)
            own = said if " " in said and said in str(self.tokenizer.chat_template) else ""
            raise RefusedByTemplateError(own) from None

    @property
    def _inner(self) -> Any:
        """The tokenizer's inner workings: the same ids and offsets at two thirds of the time.

        A call of the tokenizer leaves its own wishes in them, to cut, to pad or to see no control
        tokens; none of them is wanted here.
        """
        inner = self.tokenizer.backend_tokenizer
        if inner.encode_special_tokens:
            inner.encode_special_tokens = False
        if inner.truncation is not None:
            inner.no_truncation()
        if inner.padding is not None:
            inner.no_padding()
        return inner

    def tokens(self, text: str) -> Tokens:
        """Read one rendering."""
        return Tokens.of(self._inner.encode(text, add_special_tokens=False), self._added)

    def read(self, text: str) -> tuple[list[int], Offsets]:
        """Give the token ids of a rendering, and where in it each token stands."""
        found = self.tokens(text)
        return found.ids, found.offsets

    def tokens_of_all(self, texts: Sequence[str]) -> list[Tokens]:
        """Read many renderings: of much data by known words, where the tokenizer allows it."""
        if not texts:
            return []
        if self._use_words and self._words is None and self._read >= _WORDS_AFTER:
            self._words = recognise(self.tokenizer)
            self._use_words = self._words is not None
        self._read += len(texts)
        if self._words is None:
            return self._by_tokenizer(texts)
        return self._by_words(texts, self._words)

    def use_no_words(self) -> None:
        """Call the tokenizer for every text from here on."""
        self._words, self._use_words = None, False

    def _by_tokenizer(self, texts: Sequence[str]) -> list[Tokens]:
        """Call the tokenizer once for all, which takes two thirds of the time."""
        read = self._inner.encode_batch(list(texts), add_special_tokens=False)
        return [Tokens.of(one, self._added) for one in read]

    def _by_words(self, texts: Sequence[str], words: KnownWords) -> list[Tokens]:
        found: list[Tokens] = []
        for text in texts:
            known = words.ids_of(text)
            is_compared = self._compared < _ALWAYS or len(found) % _THEN_EVERY == 0
            if known is None or is_compared:
                own = self.tokens(text)
                if known is not None and (own.ids, own.controls) != known:
                    raise WordsDifferError
                self._compared += 1
                found.append(own)
            else:
                found.append(Tokens(*known, read_offsets=partial(self._offsets, text)))
        return found

    def _offsets(self, text: str) -> Offsets:
        return self.tokens(text).offsets

    def ids(self, text: str) -> list[int]:
        """Give the token ids of a rendering alone."""
        if (known := self._short.get(text)) is not None:
            return list(known)
        found = self._ids(text)
        if len(text) <= _SHORT and len(self._short) < _SHORT_KEPT:
            self._short[text] = tuple(found)
        return found

    def _ids(self, text: str) -> list[int]:
        return list(self._inner.encode(text, add_special_tokens=False).ids)


class PlainReader(Reader):
    """The same for rows that spell control tokens: those stay text, the template's stay tokens.

    Renderings of this reader hold private names and are for its own ``read`` and ``ids`` alone.
    """

    def __init__(self, tokenizer: Any, tokens: Sequence[str]) -> None:
        """Copy the tokenizer with private names for these control tokens."""
        super().__init__(tokenizer)
        self._tokens = list(tokens)
        self._place = {token: number for number, token in enumerate(self._tokens)}
        mark = secrets.token_hex(8)  # nobody can write a row that forges it
        self._row, self._own = f"{_ROW}{mark}.", f"{_TEMPLATE}{mark}."
        spelled = "|".join(map(re.escape, self._tokens))
        self._control = re.compile(spelled)
        self._back = re.compile(f"{self._row}(\\d+){_ROW_END}|({spelled})")
        self._renamed = _rename(tokenizer, {token: self._private(token) for token in self._tokens})

    def _private(self, token: str) -> str:
        return f"{self._own}{self._place[token]}{_TEMPLATE_END}"

    def put_away(self, value: Any) -> Any:
        """Put a mark in place of every control token that a text spells, however deep it lies."""
        if isinstance(value, str):
            return self._control.sub(
                lambda found: f"{self._row}{self._place[found[0]]}{_ROW_END}", value
            )
        if isinstance(value, Mapping):
            return {self.put_away(key): self.put_away(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.put_away(item) for item in value]
        return value

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        generation_prompt: bool = False,
        tools: Sequence[Any] | None = None,
    ) -> str:
        """Render messages; the template's own control tokens stand there under private names."""
        rendered = super().render(messages, generation_prompt=generation_prompt, tools=tools)
        return self._back.sub(
            lambda found: self._tokens[int(found[1])] if found[1] else self._private(found[2]),
            rendered,
        )

    @property
    def _inner(self) -> Any:
        return self._renamed

    def tokens_of_all(self, texts: Sequence[str]) -> list[Tokens]:
        """Read many renderings; few rows need this reader."""
        return [self.tokens(text) for text in texts]


class Readers:
    """The tokenizer as it is, and the plain one for rows that spell control tokens."""

    def __init__(self, tokenizer: Any, *, use_words: bool = False) -> None:
        """Look at the control tokens once; the copy is made when the first row needs it."""
        self.usual = Reader(tokenizer, use_words=use_words)
        self._tokens = control_tokens(tokenizer)
        self._control = re.compile("|".join(map(re.escape, self._tokens)) or r"(?!)")
        self._beginnings = {token[:1] for token in self._tokens}
        self._plain: PlainReader | None = None

    def spelled_in(self, texts: Iterable[str]) -> set[str]:
        """Name the control tokens that texts spell."""
        return {
            token
            for text in texts
            if any(map(text.__contains__, self._beginnings))  # ten times as fast as the pattern
            for token in self._control.findall(text)
        }

    @property
    def plain(self) -> PlainReader:
        """The reader that takes no control token from a row."""
        if self._plain is None:
            self._plain = PlainReader(self.usual.tokenizer, self._tokens)
        return self._plain


def _rename(tokenizer: Any, names: Mapping[str, str]) -> Any:
    """Copy a tokenizer's inner workings with other spellings of some tokens; every id stays."""
    from tokenizers import Tokenizer

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["truncation"] = state["padding"] = None
    for token in state["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = state["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(word, word): number for word, number in vocabulary.items()}
    else:  # Unigram: pieces with their scores, numbered by their place
        model["vocab"] = [[names.get(word, word), score] for word, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if merges := model.get("merges"):
        # A merge that makes a control token out of its letters would read plain text as one.
        parts = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges]
        model["merges"] = [
            merge
            for merge, (left, right) in zip(merges, parts, strict=True)
            if not {left, right, left + right} & names.keys()
        ]
    return Tokenizer.from_str(json.dumps(state))
