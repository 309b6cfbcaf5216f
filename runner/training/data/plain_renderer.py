"""Plain renderer: messages of role and text through the compiled chat template, at half the cost.

transformers looks through everything that a template is given, for tools, pictures and objects of
any kind: half of the time for messages that are two texts each. These go to the template that
transformers compiled, and where it only puts texts between fixed words (`fixed_parts.py`), not even
there. Some are rendered by transformers, too: should a character ever differ, all are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.training.data.fixed_parts import FixedParts, follows_from_roles

_KEYS = {"role", "content"}
_ALWAYS, _THEN_EVERY = 64, 64
"""So many renderings are compared with those of transformers at first, and one in so many then."""


class PlainRenderer:
    """A tokenizer's chat template for messages that are a role and a text."""

    def __init__(self, tokenizer: Any) -> None:
        """Hold the tokenizer; its chat template may still be set later."""
        self._tokenizer = tokenizer
        self._compiled: Any = None
        self._source: Any = None
        self._special: dict[str, Any] = {}
        self._parts: FixedParts | None = None
        self._differs = False
        self._rendered = 0

    def takes(self, messages: Any) -> bool:
        """Tell whether the messages are plain, and the template is one that can be used."""
        return bool(
            not self._differs
            and messages
            and isinstance(self._tokenizer.chat_template, str)
            and all(
                m.keys() == _KEYS and type(m["role"]) is str and type(m["content"]) is str
                for m in messages
            )
        )

    def render(self, messages: Sequence[dict[str, str]], *, generation_prompt: bool) -> str:
        """Render them; what the template raises is passed on."""
        self._rendered += 1
        if self._rendered > _ALWAYS and self._rendered % _THEN_EVERY:
            return self._by_template(messages, add_prompt=generation_prompt)
        usual = str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation_prompt
            )
        )
        try:
            own = self._by_template(messages, add_prompt=generation_prompt)
        # transformers may compile otherwise in another version: then it renders.
        except Exception:
            own = None
        self._differs = own != usual
        return usual

    def _by_template(self, messages: Sequence[dict[str, str]], *, add_prompt: bool) -> str:
        tokenizer = self._tokenizer
        special = tokenizer.special_tokens_map
        if self._source is not tokenizer.chat_template or self._special != special:
            self._compile(special)
        given = {
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_prompt,
            **special,
        }
        said = self._parts.render(messages, self._compiled, given) if self._parts else None
        return str(self._compiled.render(messages=messages, **given)) if said is None else said

    def _compile(self, special: dict[str, Any]) -> None:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        self._compiled = _compile_jinja_template(self._tokenizer.chat_template)
        self._source, self._special = self._tokenizer.chat_template, special
        known = follows_from_roles(self._source, self._compiled.environment)
        self._parts = FixedParts() if known else None
