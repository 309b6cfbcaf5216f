"""Columns: what every known key of a row, and of a message, means here.

One table for the formats in the field: Alpaca, Dolly, ShareGPT, OpenAI's chat fine-tuning, TRL with
its preference and unpaired data, LLaMA-Factory and Axolotl. A key is honoured, harmless, or refused
with the reason; every other key that holds something is named in a note as not read.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum, auto
from functools import lru_cache
from typing import Any

from runner.words import visible


class Use(StrEnum):
    """What becomes of a key."""

    HONOURED = auto()
    HARMLESS = auto()
    """Says nothing about what is to be learned; no note."""
    REFUSED = auto()
    """Says something that cannot be done here: learning without it would be something else."""
    UNREAD = auto()
    """Not known; named in a note."""


class Meaning(StrEnum):
    """What an honoured key holds."""

    QUESTION = auto()
    MORE = auto()
    """A text that belongs to the question: Alpaca's input, Dolly's context."""
    ANSWER = auto()
    SYSTEM = auto()
    HISTORY = auto()
    """Pairs of question and answer before the question (LLaMA-Factory)."""
    MESSAGES = auto()
    TEXT = auto()
    TOOLS = auto()
    THINKING = auto()
    WEIGHT = auto()
    """0 or false: read, not learned."""
    LABEL = auto()
    """Thumbs up or down (TRL's unpaired preference, LLaMA-Factory's KTO): a row with false is not
    an answer to learn."""
    ROLE = auto()
    CONTENT = auto()
    CALLS = auto()
    CALL = auto()
    """One call, as OpenAI wrote them first."""
    CALL_ID = auto()
    NAME = auto()


@dataclass(frozen=True, kw_only=True)
class Key:
    """One entry of the table."""

    use: Use
    meaning: Meaning | None = None
    weak: bool = False
    """It counts only where no plainer name holds something: ``user`` may be who asked."""
    reason: str = ""
    """Why it is refused, after "the row holds NAME: "."""
    hint: str = ""
    """The change that makes the row one that can be learned."""
    is_switch: bool = False
    """It is refused where it is on; off, it says nothing."""


_UNKNOWN = Key(use=Use.UNREAD)


def _honoured(names: dict[Meaning, str], *, weak: bool = False) -> dict[str, Key]:
    return {
        name: Key(use=Use.HONOURED, meaning=meaning, weak=weak)
        for meaning, words in names.items()
        for name in words.split()
    }


def _harmless(names: str) -> dict[str, Key]:
    return dict.fromkeys(names.split(), Key(use=Use.HARMLESS))


def _refused(names: str, reason: str, hint: str, *, is_switch: bool = False) -> dict[str, Key]:
    key = Key(use=Use.REFUSED, reason=reason, hint=hint, is_switch=is_switch)
    return dict.fromkeys(names.split(), key)


_PREFERENCE = _refused(
    "chosen rejected preferred non_preferred preferred_output non_preferred_output "
    "chosen_response rejected_response",
    "this is preference data, and here only answers are learned",
    "Keep the better answer as the column completion, and delete the other one.",
)
_MEDIA = _refused(
    "image images image_url audio audios video videos input_audio",
    "only text is learned here",
    "Delete the column where the text is enough, or leave these rows out.",
)
_TOKENS = _refused(
    "input_ids attention_mask token_type_ids position_ids seq_lengths assistant_masks "
    "completion_mask prompt_ids completion_ids",
    "the rows are tokens already, and the tokens of another model may mean other words",
    "Give the rows as text: question and answer, or messages.",
)
_PARTS = _refused(
    "train_detail training_detail mask masked loss_mask",
    "parts of an answer cannot be left out of learning",
    "Mark whole messages with weight: 0 (read, not learned) or weight: 1, and delete this key.",
)

ROW: dict[str, Key] = {
    **_honoured(
        {
            Meaning.QUESTION: "instruction prompt question query frage anweisung anfrage aufgabe",
            Meaning.MORE: "input context article eingabe kontext",
            Meaning.ANSWER: "output completion answer response reply antwort ausgabe",
            Meaning.SYSTEM: "system system_prompt system_message systemprompt systemnachricht "
            "system_instruction systeminstruction",
            Meaning.HISTORY: "history verlauf",
            Meaning.MESSAGES: "messages conversations conversation nachrichten",
            Meaning.TEXT: "text",
            Meaning.TOOLS: "tools functions",
            Meaning.THINKING: "reasoning_content reasoning thinking thought",
            Meaning.WEIGHT: "weight loss_weight loss_scale train training train_on_turn loss "
            "gewicht",
            Meaning.LABEL: "label kto_tag",
        }
    ),
    **_honoured(
        {
            Meaning.QUESTION: "user user_message human nutzer benutzer",
            Meaning.ANSWER: "assistant assistant_message generation",
        },
        weak=True,
    ),
    **_harmless(
        "id _id idx index nr no number nummer row_id uid uuid prompt_id question_id "
        "conversation_id source src origin quelle dataset dataset_name category "
        "categories kategorie topic thema type task_type tag tags domain difficulty lang "
        "language sprache created created_at updated_at timestamp date datum author annotator "
        "autor reviewer url link license licence lizenz version metadata meta model "
        "model_name num_turns num_tokens length hash temperature max_tokens "
        "parallel_tool_calls __index_level_0__ unnamed:_0"
    ),
    **_PREFERENCE,
    **_MEDIA,
    **_TOKENS,
    **_PARTS,
    **_refused(
        "completions",
        "each step has a label of its own (stepwise supervision), and here whole answers are "
        "learned",
        "Join the steps that are right into one column completion.",
    ),
    **_refused(
        "answers",
        "several answers may stand there, and each row is learned with one",
        "Keep one of them as text in the column answer, and delete the column answers.",
    ),
    **_refused(
        "segments",
        "the rows spell out another model's control tokens (Axolotl's input_output)",
        "Write the turns as messages with role and content, and weight: 0 for what is only read.",
    ),
    **_refused(
        "choices options",
        "the choices would not be part of the question",
        "Write the choices into the question and the full answer into the answer, and delete this "
        "column.",
    ),
    **_refused(
        "chat_template_kwargs chat_template enable_thinking",
        "the model's own chat template is used as it is for every row",
        "Delete this column.",
    ),
}
"""Columns of a row, by their names in small letters with ``_`` for blanks and hyphens."""

MESSAGE: dict[str, Key] = {
    **_honoured(
        {
            Meaning.ROLE: "role from",
            Meaning.CONTENT: "content value text parts",
            Meaning.WEIGHT: "weight loss_weight loss_scale train training train_on_turn loss",
            Meaning.THINKING: "reasoning_content reasoning thinking thought",
            Meaning.CALLS: "tool_calls",
            Meaning.CALL: "function_call",
            Meaning.CALL_ID: "tool_call_id",
            Meaning.NAME: "name",
        }
    ),
    **_harmless(
        "id _id message_id parent_id index idx turn created created_at create_time timestamp "
        "date model source lang language tokens token_count num_tokens finish_reason "
        "stop_reason end_turn logprobs annotations metadata meta author hash"
    ),
    **_MEDIA,
    **_PARTS,
    **_refused(
        "refusal",
        "the answer is a refusal beside the content",
        "Write the refusal into content, and delete this key.",
        is_switch=True,
    ),
    **_refused(
        "tools functions",
        "tools belong to the row, not to a message",
        "Move the key out of the message, beside messages.",
    ),
    **_refused(
        "chosen rejected",
        "this is preference data, and here only answers are learned",
        "Keep the better answer as content, and delete the other one.",
    ),
    **_refused(
        "prefix",
        "an answer cannot be begun for the model",
        "Write the whole answer into one message without prefix.",
        is_switch=True,
    ),
}
"""Keys of a message."""

QUESTION_ANSWER = (
    "Name the columns question and answer (or instruction and output, prompt and completion, "
    "Frage and Antwort); rows of messages need a column messages, plain texts a column text."
)

_NAME = re.compile(r"[^\W_][\w .:/()#&-]{0,39}|_[\w-]{0,39}")
_NAME_WORDS = 4  # more are a sentence


TELLING = (Meaning.QUESTION, Meaning.MORE, Meaning.ANSWER, Meaning.TEXT, Meaning.MESSAGES)
"""A heading has at least one of these; the others stand beside them."""


@lru_cache(maxsize=4096)
def _plain(name: str) -> str:
    """Compose what macOS takes apart (u and two dots), and drop what nobody sees."""
    composed = unicodedata.normalize("NFC", name)
    return "".join(c for c in composed if unicodedata.category(c) != "Cf").strip()


@lru_cache(maxsize=4096)
def normalised(name: str) -> str:
    """Give a column's name as the table has it: capitals, blanks and marks around do not matter."""
    return re.sub(r"[\s-]+", "_", _plain(name).strip(" \t:*\"'").casefold())


@lru_cache(maxsize=4096)
def row_key(name: str) -> Key:
    """Look a column up."""
    return ROW.get(normalised(name), _UNKNOWN)


@lru_cache(maxsize=4096)
def message_key(name: str) -> Key:
    """Look a key of a message up."""
    return MESSAGE.get(normalised(name), _UNKNOWN)


_SAYS = frozenset(
    {Meaning.SYSTEM, Meaning.HISTORY, Meaning.MESSAGES, Meaning.TOOLS, Meaning.THINKING}
    | {Meaning.WEIGHT, Meaning.LABEL, Meaning.CALLS, Meaning.CALL}
)
"""What would change what is learned, were it read where it stands."""


def said_within(name: str, value: Any) -> list[str]:
    """Name what a harmless column holds in its inside, and is not read there: metadata.weight."""
    if isinstance(value, str) and value[:1] == "{":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    if not isinstance(value, dict):
        return []
    keys = ((inner, row_key(inner), message_key(inner)) for inner in value)
    return [
        f"{name}.{inner}"
        for inner, *found in keys
        if any(key.use is Use.REFUSED or key.meaning in _SAYS for key in found)
        and value[inner] not in (None, "", [], {})
    ]


@lru_cache(maxsize=4096)
def is_name(text: str) -> bool:
    """Tell a name from a sentence: a row may stand where the names should, and rows are private."""
    text = _plain(text).strip(" *\"'")
    return bool(_NAME.fullmatch(text)) and len(text.split()) <= _NAME_WORDS


def shown(names: Iterable[str], most: int = 10) -> str:
    """List names for a message; what may be a row's content is counted instead of shown."""
    known = list(names)
    named = [visible(_plain(name)) for name in known if is_name(name)][:most]
    left = len(known) - len(named)
    if not named:
        return f"{left} (not shown: they may be a row's content)"
    return ", ".join(named) + (f" and {left} more" if left else "")
