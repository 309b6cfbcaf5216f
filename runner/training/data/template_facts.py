"""Facts of the chat template that rows were encoded with, as far as a run needs them afterwards.

With them, a run that takes the tokens of an earlier one loads no tokenizer, which takes a second
and a half.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from runner.training.data.conversation import Conversation, Message
from runner.training.data.system_message import fold_system
from runner.training.data.template import Template


@dataclass(frozen=True, kw_only=True)
class TemplateFacts:
    """What is known once every row is encoded."""

    chat_template: str
    """Whose it is: the model's own, or ChatML."""
    end_tokens: tuple[str, ...]
    """What generation has to stop at."""
    ending: tuple[int, ...]
    """Every token that can end a turn."""
    pad: int
    folds_system: bool
    """System prompts stand before the first question."""
    shortfalls: tuple[str, ...]
    """What the owner of the job should know."""

    @classmethod
    def of(cls, template: Template) -> TemplateFacts:
        """Take them from a template after all rows."""
        tokenizer = template.tokenizer
        return cls(
            chat_template=template.chat_template,
            end_tokens=tuple(map(tokenizer.convert_ids_to_tokens, template.ends)),
            ending=tuple(sorted(template.ending)),
            pad=int(tokenizer.pad_token_id),
            folds_system=template.folds_system,
            shortfalls=tuple(template.shortfalls),
        )

    @classmethod
    def read(cls, written: dict[str, Any]) -> TemplateFacts:
        """Read what `written` gave."""
        lists = {name: tuple(written[name]) for name in ("end_tokens", "ending", "shortfalls")}
        return cls(**{**written, **lists})

    def written(self) -> dict[str, Any]:
        """Give them as JSON has them."""
        return asdict(self)

    def prompt_messages(self, conversation: Conversation) -> list[Message]:
        """Give the messages before the last answer, as the model should be asked."""
        messages = conversation.messages
        if self.folds_system and messages and messages[0]["role"] == "system":
            messages = fold_system(messages)
        return list(messages[:-1])
