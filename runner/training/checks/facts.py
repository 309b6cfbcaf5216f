"""What is kept of each row for the checks: 70 bytes of hashes and figures, no text.

The texts flow by once; every finding is made at the end from these columns, put in the order of the
rows, so that neither the order in which rows were seen nor which process saw them matters.
"""

from __future__ import annotations

import os
import unicodedata
from enum import IntFlag
from hashlib import blake2b
from typing import BinaryIO

import numpy as np

from runner.training.checks.language import language
from runner.training.checks.mojibake import is_broken
from runner.training.checks.personal_data import personal_data
from runner.training.checks.row import Kind, SeenRow
from runner.training.checks.thresholds import REPEATED_WORDS

NO_QUESTION = 0  # in the place of a question's hash
TEXT_LOOKED_AT = 200_000
"""Characters of a row's question and of its answer whose words are looked at: a row may have 50 MB,
and its words take ten times that."""
_MOST = 2**32 - 1

FACTS = np.dtype(
    [
        ("number", np.int64),
        ("line", np.uint32),
        ("file", np.uint32),
        ("kind", np.uint8),
        ("language", np.uint8),
        ("marks", np.uint16),
        ("personal", np.uint16),
        ("tokens", np.uint32),
        ("read", np.uint32),
        ("learned", np.uint32),
        ("last", np.int32),
        ("characters", np.uint32),
        ("answer_words", np.uint32),
        ("question", np.uint64),
        ("answer", np.uint64),
        ("content", np.uint64),
    ]
)


class FactsOnDisk:
    """Rows of `FACTS` in a file, read a column at a time: those of 10 GB are half a gigabyte."""

    def __init__(self, file: BinaryIO, count: int) -> None:
        """Take an open file that holds so many."""
        self._file, self._count = file, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, what: str | np.ndarray) -> np.ndarray:
        """Give one column, or all that is kept of the rows at some places."""
        if not isinstance(what, str):
            return np.asarray(self.mapped()[what])
        column: np.ndarray = np.empty(self._count, np.zeros(0, FACTS)[what].dtype)
        for start in range(0, self._count, _ROWS_AT_ONCE):
            part = self._read(start)
            column[start : start + len(part)] = part[what]
        return column

    def _read(self, start: int) -> np.ndarray:
        rows = min(_ROWS_AT_ONCE, self._count - start)
        content = os.pread(self._file.fileno(), rows * FACTS.itemsize, start * FACTS.itemsize)
        return np.frombuffer(content, FACTS)

    def mapped(self) -> np.ndarray:
        """Give them as an array whose pages are read where somebody looks at them."""
        return np.memmap(self._file, FACTS, "r", shape=(self._count,))


Facts = np.ndarray | FactsOnDisk
"""By column and by place: small data in memory, large data on the disk."""
_ROWS_AT_ONCE = 65_536  # 4 MB


class Mark(IntFlag):
    """What a row's text shows by itself."""

    BROKEN = 1
    PLACEHOLDER = 2
    REPEATS = 4
    ASSISTANT = 8


PLACEHOLDERS = frozenset(
    {
        *("todo", "tbd", "tba", "tbc", "n/a", "n.a.", "k.a.", "xxx", "xxxx", "fixme", "null"),
        *("nan", "#n/a", "#nv", "#ref!", "#name?", "undefined", "[todo]", "<todo>"),
        *("platzhalter", "placeholder"),
    }
)
"""Answers of one word that stand for one still to be written. (`none` and `na` may be labels.)"""
ASSISTANT_PHRASES = (
    "as an ai language model",
    "as a large language model",
    "i'm an ai language model",
    "i am an ai language model",
    "as an ai assistant, i",
    "my knowledge cutoff",
    "als ki-sprachmodell",
    "als ki-modell",
    "als künstliche intelligenz habe ich",
    "als großes sprachmodell",
    "en tant que modèle de langage",
    "como modelo de lenguaje",
)
"""What answers say that another assistant wrote about itself."""
_PHRASES = tuple(phrase.casefold() for phrase in ASSISTANT_PHRASES)  # as answers are looked at
_IN_PHRASES = "model", "modèle", "ai assistant", "cutoff", "künstliche intelligenz"
"""One of them stands in each phrase, and seldom anywhere else: five looks instead of twelve."""


def facts_of(row: SeenRow, file: int) -> tuple[tuple[int, ...], list[str]]:
    """Give what is kept of a row, and its words (which are not)."""
    question, asked = _words(row.question)
    answer, told = _words(row.answer)
    text = f"{row.question}\n{row.answer}" if row.question else row.answer
    looked_at = text[: 2 * TEXT_LOOKED_AT]
    question_hash = _hash(question, row.system) if asked or row.system else NO_QUESTION
    answer_hash = _hash(answer)
    personal = personal_data(looked_at)
    kept = (
        row.number,
        row.line,
        file,
        row.kind,
        language((row.answer if told else row.question)[:TEXT_LOOKED_AT], told or asked),
        _marks(row, asked, told, looked_at, answer),
        personal.value,
        min(row.tokens, _MOST),
        min(row.read, _MOST),
        min(row.learned, _MOST),
        row.last,
        min(len(text) + len(row.system), _MOST),
        len(told),
        question_hash,
        answer_hash,
        _hash(str(question_hash), str(answer_hash), str(row.learned)),
    )
    return kept, asked + told


def _words(text: str) -> tuple[str, list[str]]:
    """Give a text without differences of case, spacing and Unicode form, and its words."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    folded = text.casefold()
    words = folded[:TEXT_LOOKED_AT].split()
    return (" ".join(words) if len(folded) <= TEXT_LOOKED_AT else folded), words


def _hash(*texts: str) -> int:
    digest = blake2b(digest_size=8)
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return int.from_bytes(digest.digest(), "big")


def _marks(row: SeenRow, asked: list[str], told: list[str], text: str, answer: str) -> int:
    marks = Mark(0)
    if is_broken(text):
        marks |= Mark.BROKEN
    if row.kind is Kind.TEXT or not told:
        return marks.value
    if is_placeholder(told):
        marks |= Mark.PLACEHOLDER
    if len(asked) >= REPEATED_WORDS.value and told[: len(asked)] == asked:
        marks |= Mark.REPEATS
    if any(word in answer for word in _IN_PHRASES) and any(p in answer for p in _PHRASES):
        marks |= Mark.ASSISTANT
    return marks.value


def is_placeholder(words: list[str]) -> bool:
    """Tell an answer that stands for one still to be written."""
    if len(words) > 2:
        return words[:2] == ["lorem", "ipsum"]
    text = "".join(words)
    punctuation = all(unicodedata.category(c)[0] in "PZ" for c in text)
    return punctuation or text in PLACEHOLDERS
