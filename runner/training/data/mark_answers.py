"""Labels of a rendering: only answers are learned, each up to and with the token that ends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner.training.data.control_tokens import Reader, Tokens
from runner.training.data.conversation import UnlearnableRowError
from runner.training.data.render_answers import OTHER_MODEL, OTHER_ROW, Answer, Rendering

IGNORED = -100  # the label that torch's cross entropy leaves out

_BORDER_HINT = "Let the answer begin with a letter or a digit, or choose another model."


class BorderError(UnlearnableRowError):
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


class Marker:
    """A tokenizer's control tokens, by which answers are told apart."""

    def __init__(self, tokenizer: Any) -> None:
        """Look at the tokenizer's control tokens.

        Args:
            tokenizer: a fast one.
        """
        self.tokenizer = tokenizer
        self.end_ids: set[int] = set()
        """Tokens that were seen to end an answer; whoever tries the template adds them."""
        self.bos = tokenizer.bos_token_id
        self.adds_bos = self.bos is not None and tokenizer("a")["input_ids"][:1] == [self.bos]
        self.special = {
            number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special or number == tokenizer.eos_token_id
        }

    def text_example(self, ids: list[int]) -> Example:
        """Learn a text whole, and the tokenizer's end token behind it."""
        end = self.tokenizer.eos_token_id
        if end is None:
            raise UnlearnableRowError(
                "the model has no end token to learn after a text",
                hint="Write the rows as question and answer, or choose another model.",
            )
        ids = [*ids, end]
        bos = [self.bos] if self.adds_bos else []
        return Example(input_ids=bos + ids, learned=((len(bos), len(bos) + len(ids)),))

    def mark(self, rendering: Rendering, tokens: Tokens, reader: Reader) -> Example:
        """Label each answer of a rendering up to and with the token that ends it."""
        ids = tokens.ids
        if self.bos is not None and ids[:2] == [self.bos, self.bos]:
            raise UnlearnableRowError(
                "the template begins with two begin-of-text tokens", hint=OTHER_MODEL
            )
        learned: list[tuple[int, int]] = []
        for answer in rendering.answers:
            start = self._border(rendering.whole, len(answer.prompt), tokens, reader)
            stop = self._end_token(answer, start, tokens) + 1
            if learned and start <= learned[-1][1]:  # answers with nothing between them
                start = learned.pop()[0]
            learned.append((start, stop))
        return Example(input_ids=ids, learned=tuple(learned))

    def _end_token(self, answer: Answer, start: int, tokens: Tokens) -> int:
        """Find the token that ends an answer: the first control token after the answer's text.

        A token may swallow blanks before it, so it is its own end that lies behind the text. After
        tool calls, which hold control tokens of their own, it is the last one that ends an answer.
        """
        ids = tokens.ids
        control = [
            k
            for k, _, end in tokens.controls
            if k >= start and ids[k] in self.special and answer.text_end < end <= len(answer.end)
        ]
        if answer.calls_tools:
            control = [k for k in control if ids[k] in self.end_ids][-1:] or control[-1:]
        if not control:
            raise UnlearnableRowError(
                "the template ends an answer with no token of its own", hint=OTHER_ROW
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
            raise BorderError("a token stands across the border of an answer", hint=_BORDER_HINT)
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
            if end <= at and tokens.ids[k] in self.special:
                return k, reader.ids(whole[begin:at])
        return 0, reader.ids(whole[:at])
