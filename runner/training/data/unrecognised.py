"""Column names that are not recognised: what is said of them, and which name was surely meant."""

from __future__ import annotations

import difflib
from functools import lru_cache
from typing import Any

from runner.training.data.cells import BadRowError
from runner.training.data.columns import (
    QUESTION_ANSWER,
    ROW,
    TELLING,
    Meaning,
    is_name,
    normalised,
    row_key,
    shown,
)
from runner.training.data.fields import Fields
from runner.training.data.findings import Findings
from runner.training.data.messages import is_list_of_messages, is_message
from runner.training.data.row import Row

_CLOSE = 0.75  # difflib's ratio: "outptu" to "output" is 0.83, "notes" to "quotes" 0.73
_NAMES_COMPARED = 10  # with every known name, letter by letter; a hostile row has thousands
_MEANT = [name for name, key in ROW.items() if key.meaning is not None and not key.weak]
_MEANT_BY = {
    **dict.fromkeys(("q", "problem", "document", "source_text", "instructions"), "question"),
    **dict.fromkeys(
        ("a", "target", "targets", "summary", "solution", "lösung", "label_text"), "answer"
    ),
    **dict.fromkeys(("inputs", "fragen"), "question"),
    **dict.fromkeys(("antworten", "label", "labels"), "answer"),
    **dict.fromkeys(("contents", "dialog", "dialogue", "turns", "chat", "chats"), "messages"),
    **dict.fromkeys(("content", "body", "inhalt", "article_text"), ""),
}
"""What other programs call these; too short, or too common, to be read so unasked. Empty: no name
is close in meaning, whatever its letters."""
_ROWS = (Meaning.QUESTION, Meaning.ANSWER, Meaning.MESSAGES, Meaning.TEXT)
"""What a row holds, and a list of other things within a row does not."""
_PARTS = {"frage": "question", "question": "question", "antwort": "answer", "answer": "answer"}
"""Words that German and English join to others: Mandantenfrage, ``answer_text``."""


def not_recognised(row: Row, fields: Fields, findings: Findings, guess: str | None = None) -> None:
    """Name the columns that are not known; a table's heading is named once, not row by row.

    Args:
        row: the row.
        fields: its columns by what they mean.
        findings: takes what is said.
        guess: a ``columns:`` for the spec that may be meant.
    """
    line = row.line if row.heading is None else row.heading
    tell = findings.add if row.heading is None else findings.once
    if not row.value:
        tell(
            row.file, line, "the row is empty", hint="Write a question and an answer, or delete it."
        )
        return
    names = [name for name in row.value if row_key(name).meaning is None]
    if row.heading is not None and not all(is_name(name) for name in row.value if name.strip()):
        what = "the first line holds no column names: it looks like a row"
        hint = "Write a line with the column names above it, such as question and answer."
        tell(row.file, line, what, hint=hint)
        return
    lacks = [side for side in (Meaning.QUESTION, Meaning.ANSWER) if side in fields.named]
    side = "answer" if Meaning.QUESTION in fields.named else "question"
    what = f"these column names are not recognised: {shown(names)}"
    if lacks and not names:
        what = f"there is no column for the {side}"
    elif lacks:
        what = f"there is no column for the {side}, and {what}"
    hint = _inside(row.value) or nearest(names, side if lacks else None) or QUESTION_ANSWER
    if guess:
        hint = f"{hint} Or say in the spec which column is which, such as: {guess}"
    tell(row.file, line, what, hint=hint)


def check_single_message(value: dict[str, Any], fields: Fields) -> None:
    """Refuse a row that is one message of a conversation: its role would be lost.

    Raises:
        BadRowError: with the form that a conversation has.
    """
    sides = (Meaning.MESSAGES, Meaning.QUESTION, Meaning.ANSWER)
    if is_message(value) and not any(side in fields.held for side in sides):
        what = "the row is a single message, not a conversation"
        hint = 'Write each conversation as one row: {"messages": [{"role": …, "content": …}, …]}.'
        raise BadRowError(what, hint=hint)


def nearest(names: list[str], side: str | None) -> str | None:
    """Say which column was surely meant by another name."""
    named = [name for name in names if is_name(name)][:_NAMES_COMPARED]
    meant = {name: other for name in named if (other := _meant(name))}
    if len(set(meant.values())) < len(meant):
        numbered = [name for name in meant if any(letter.isdigit() for letter in name)]
        several = f"write {shown(numbered)} into rows of their own. " if numbered else ""
        return (
            f"Each row is learned with one question and one answer: {several}{QUESTION_ANSWER}"
            if several
            else None
        )
    if meant:
        renames = [f"Rename {shown([name])} to {other}." for name, other in meant.items()]
        return f"{' '.join(renames)} {QUESTION_ANSWER}"
    if side and len(names) == 1 and is_name(names[0]):
        return f"Rename {shown(names)} to {side} if that is what it holds."
    return None


@lru_cache(maxsize=4096)
def _meant(name: str) -> str | None:
    """Give the known name that is nearest to another, in meaning or in letters."""
    plain = normalised(name)
    if plain in _MEANT_BY:
        return _MEANT_BY[plain] or None
    if close := difflib.get_close_matches(plain, _MEANT, 1, _CLOSE):
        return close[0]
    return next((side for part, side in _PARTS.items() if part in plain), None)


def _inside(value: dict[str, Any]) -> str | None:
    """Say where the known columns lie, if they lie within one that is not known."""
    for name, inner in value.items():
        if row_key(name).meaning is not None:
            continue
        if is_list_of_messages(inner):
            return f"Rename {shown([name])} to messages."
        if _is_rows(inner) and any(row_key(key).meaning in _ROWS for key in inner[0]):
            return f"Write the list {shown([name])} as the whole file."
        if isinstance(inner, dict):
            known = [key for key in inner if row_key(key).meaning in TELLING]
            lists = [key for key, held in inner.items() if _is_rows(held)]
            if known:
                return f"Let {shown(known)} stand directly in the row, not within {shown([name])}."
            if lists:
                return (
                    f"Write the list {shown(lists[:1])} within {shown([name])} as the whole file."
                )
    return None


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)
