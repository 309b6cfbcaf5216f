"""Turns a conversation into token ids and labels in which only the answers are learned.

The model's own chat template renders; nothing is known about any template by name. An answer is
what a rendering has beyond the same conversation with the generation prompt at its end, up to and
with the token that ends the turn. Where that cannot be made exact, the job is refused with the
reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.errors import ModelError, Problem
from runner.training.data.conversation import Conversation, Message, UnlearnableRowError
from runner.training.data.extras import Extras

IGNORED = -100  # the label that torch's cross entropy leaves out

_CHATML = (
    "{{% for message in messages %}}{{{{ {bos}'<|im_start|>' + message['role'] + '\n'"
    " + message['content'] + '{end}' + '\n' }}}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\n' }}}}{{% endif %}}"
)
_PAD_NAMES = (
    "<|finetune_right_pad_id|>",
    "<pad>",
    "<|pad|>",
    "[PAD]",
    "<|padding|>",
    "<|endoftext|>",
    "<unk>",
)
_PROBE = "Zqx"  # stands in for a text whose place in a rendering is looked for


@dataclass(frozen=True, kw_only=True)
class Example:
    """One sequence to train on."""

    input_ids: list[int]
    labels: list[int]
    """The same ids where they are learned, ``IGNORED`` elsewhere."""


class Template:
    """A tokenizer and its chat template, checked once and then applied to every row."""

    def __init__(self, tokenizer: Any, *, name: str) -> None:
        """Make the tokenizer ready for training: a chat template, and a pad that ends nothing.

        Raises:
            ModelError: answers cannot be told apart exactly in this template.
        """
        self.tokenizer = tokenizer
        self.model_name = name
        self.shortfalls: list[str] = []
        self.chat_template = "model's own"
        if not getattr(tokenizer, "is_fast", False):
            raise self._refusal("its tokenizer cannot say where each token came from (not 'fast')")
        self._bos = tokenizer.bos_token_id
        self._adds_bos = self._bos is not None and tokenizer("a")["input_ids"][:1] == [self._bos]
        self._special = {
            number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special or number == tokenizer.eos_token_id
        }
        # A row that spells a control token would be read as that token.
        spelled = [t.content for n, t in tokenizer.added_tokens_decoder.items() if t.special]
        spelled += [t for t in tokenizer.all_special_tokens if t not in spelled]
        self._control = re.compile("|".join(map(re.escape, sorted(spelled, key=len, reverse=True))))
        if not tokenizer.chat_template:
            self._use_chatml()
        self._folds_system = not self._renders_system()
        self._extras = Extras(lambda messages, tools: self.render(messages, tools=tools))
        self.end_ids: set[int] = set()
        self.end_ids = self._check_template()
        self._choose_pad()

    def encode(self, conversation: Conversation) -> list[Example]:
        """Give the examples of a row: one, or one for each answer where the template needs it.

        Raises:
            UnlearnableRowError: the row cannot be rendered exactly.
        """
        if any(self._control.search(text) for text in conversation.texts()):
            raise UnlearnableRowError("the row spells one of the model's control tokens")
        if conversation.text is not None:
            return [self._encode_text(conversation.text)]
        conversation = self._extras.fit(conversation)
        messages = self._prepared(conversation.messages)
        return self._encode_messages(messages, conversation.tools, conversation.unlearned)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] = (),
        generation_prompt: bool = False,
    ) -> str:
        """Render messages as the model sees them."""
        from jinja2.exceptions import TemplateError

        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages),
                    tools=list(tools) or None,
                    tokenize=False,
                    add_generation_prompt=generation_prompt,
                )
            )
        except (TemplateError, TypeError, ValueError, AttributeError):
            # Templates that get what they were not written for; their own words may quote the row.
            raise UnlearnableRowError("the model's chat template refuses the row") from None

    def prompt_messages(self, conversation: Conversation) -> list[Message]:
        """Give the messages before the last answer, as the model should be asked."""
        return list(self._prepared(conversation.messages)[:-1])

    # -- one row ---------------------------------------------------------------------------------

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _prepared(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Move a system message into the first question where the template has no place for it."""
        if not self._folds_system or messages[0]["role"] != "system":
            return tuple(messages)
        folded = "the template has no system role: system prompts stand before the first question"
        if folded not in self.shortfalls:
            self.shortfalls.append(folded)
        system, first, *rest = messages
        content = f"{system['content']}\n\n{first['content']}"
        return ({**first, "content": content}, *rest)

    def _encode_text(self, text: str) -> Example:
        ids = self._ids(text)
        bos = [self._bos] if self._adds_bos else []
        end = [self.tokenizer.eos_token_id]
        return Example(input_ids=bos + ids + end, labels=[IGNORED] * len(bos) + ids + end)

    def _encode_messages(
        self,
        messages: tuple[Message, ...],
        tools: Sequence[dict[str, Any]] = (),
        unlearned: frozenset[int] = frozenset(),
    ) -> list[Example]:
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        answers = [i for place, i in enumerate(answers) if place not in unlearned]
        whole = self.render(messages, tools=tools)
        cuts = [
            (
                self.render(messages[:i], tools=tools, generation_prompt=True),
                self.render(messages[: i + 1], tools=tools),
            )
            for i in answers
        ]
        if all(whole.startswith(a) and whole.startswith(b) and len(a) < len(b) for a, b in cuts):
            spans = [(a, len(b), messages[i]) for (a, b), i in zip(cuts, answers, strict=True)]
            return [self._mark(whole, spans)]
        # The template shows earlier turns differently once the conversation has gone on (thinking
        # that is dropped, an end that moves): each answer is learned as it was first seen.
        examples: list[Example] = []
        for (a, b), i in zip(cuts, answers, strict=True):
            if not b.startswith(a) or len(a) >= len(b):
                raise UnlearnableRowError(
                    "the template's generation prompt is not how it begins an answer"
                )
            examples.append(self._mark(b, [(a, len(b), messages[i])]))
        return examples

    def _mark(self, whole: str, spans: list[tuple[str, int, Message]]) -> Example:
        """Tokenise once and label each span up to and with the token that ends it."""
        encoded = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
        if self._bos is not None and ids[:2] == [self._bos, self._bos]:
            raise UnlearnableRowError("the template begins with two begin-of-text tokens")
        labels = [IGNORED] * len(ids)
        for before, stop, message in spans:
            start = self._border(whole, len(before), ids, offsets)
            said = message["content"].strip()
            at = whole.rfind(said, len(before), stop)
            content_end = at + len(said) if said and at >= 0 else len(before) + 1
            for call in message.get("tool_calls") or ():
                at = whole.rfind(call["function"]["name"], len(before), stop)
                content_end = max(content_end, at + 1)
            after = [
                k
                for k in range(start, len(ids))
                if ids[k] in self._special and content_end <= offsets[k][0] < stop
            ]
            if message.get("tool_calls"):
                # Some templates write control tokens within a call: it ends where an answer does,
                # or (gpt-oss) with an end of its own, which comes last.
                after = [k for k in after if ids[k] in self.end_ids] or after[-1:]
            end = after[0] if after else None
            if end is None:
                raise UnlearnableRowError("the template ends an answer with no token of its own")
            labels[start : end + 1] = ids[start : end + 1]
        return Example(input_ids=ids, labels=labels)

    def _border(self, whole: str, at: int, ids: list[int], offsets: list[tuple[int, int]]) -> int:
        """Find the first token of an answer that begins at character ``at``."""
        prompt = self._prompt_ids(whole, at, ids, offsets)
        if ids[: len(prompt)] == prompt:
            return len(prompt)  # the very tokens that the model is given at use
        # Some tokenizers join line breaks otherwise when text follows. Such a prompt still masks
        # exactly, unless a token stands across the border. Offsets may hide a token's leading
        # space (Ġ, or ▁), so its spelling is looked at too.
        start = next((k for k, (begin, _) in enumerate(offsets) if begin >= at), len(ids))
        across = any(begin < at < stop for begin, stop in offsets)
        if not across and start < len(ids) and not whole[at].isspace():
            spelled = str(self.tokenizer.convert_ids_to_tokens(ids[start]))
            across = spelled.startswith(("Ġ", "Ċ", "▁", " ", "\n"))
        if across or start == len(ids):
            raise UnlearnableRowError("a token stands across the border of an answer")
        return start

    def _prompt_ids(
        self, whole: str, at: int, ids: list[int], offsets: list[tuple[int, int]]
    ) -> list[int]:
        """Tokenise the text before ``at`` as if nothing followed.

        A tokenizer parts the text at control tokens first and reads each part by itself: what lies
        before the last of them is read already. That halves the time that preparing takes.
        """
        for k in range(len(ids) - 1, -1, -1):
            begin, end = offsets[k]
            if end <= at and ids[k] in self._special:
                return ids[:k] + self._ids(whole[begin:at])
        return self._ids(whole[:at])

    # -- the template, once ----------------------------------------------------------------------

    def _refusal(self, why: str) -> ModelError:
        return ModelError(
            [
                Problem(
                    field="model",
                    found=self.model_name,
                    message=f"only answers are learned, and this model does not allow it: {why}",
                    hint="Choose another model, or its variant without thinking.",
                )
            ]
        )

    def _use_chatml(self) -> None:
        """Give a base model without a chat template ChatML, with an end token that it knows."""
        if self.tokenizer.eos_token is None:
            raise self._refusal("it has neither a chat template nor an end token")
        known = "<|im_end|>" in self.tokenizer.get_vocab()
        end = "<|im_end|>" if known else self.tokenizer.eos_token
        bos = "(bos_token if loop.first else '') + " if self._adds_bos else ""
        self.tokenizer.chat_template = _CHATML.format(bos=bos, end=end)
        self.chat_template = "ChatML"
        self.shortfalls.append(
            f"the model has no chat template: ChatML is used, with {end} as the end of a turn"
        )

    def _renders_system(self) -> bool:
        """Tell whether a system message reaches the model: some templates refuse or drop it."""
        question = {"role": "user", "content": "Q"}
        try:
            return _PROBE in self.render([{"role": "system", "content": _PROBE}, question])
        except UnlearnableRowError:
            return False

    def _check_template(self) -> set[int]:
        """Mark a small conversation, so that a template that cannot be exact is refused at once."""
        turns: tuple[Message, ...] = (
            {"role": "user", "content": "Is this a question?"},
            {"role": "assistant", "content": f"Yes, {_PROBE}."},
            {"role": "user", "content": "And this?"},
            {"role": "assistant", "content": f"It is {_PROBE} too."},
        )
        ends: set[int] = set()
        try:
            for messages in (turns[:2], turns):
                for example in self._encode_messages(messages):
                    learned = [label for label in example.labels if label != IGNORED]
                    said = self.tokenizer.decode(learned)
                    if _PROBE not in said:
                        raise self._refusal("its template does not show answers as they are")
                    ends.add(learned[-1])
        except UnlearnableRowError as error:
            raise self._refusal(str(error)) from None
        return ends

    def _choose_pad(self) -> None:
        """Pad with a token that ends nothing: a learned pad would never be told from an end."""
        tokenizer = self.tokenizer
        taken = {tokenizer.eos_token_id, *self.end_ids}
        if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in taken:
            return
        vocabulary = tokenizer.get_vocab()
        names = [name for name in _PAD_NAMES if name in vocabulary]
        names += [tokenizer.unk_token] if tokenizer.unk_token else []
        names += [str(tokenizer.convert_ids_to_tokens(n)) for n in sorted(self._special)]
        free = [name for name in names if vocabulary[name] not in {*taken, self._bos}]
        # Padding is masked out of attention and loss, so a begin-of-text token can serve as well.
        free += [name for name in names if vocabulary[name] not in taken]
        if not free:
            raise self._refusal("its tokenizer has no token that can pad rows and ends nothing")
        tokenizer.pad_token = free[0]
