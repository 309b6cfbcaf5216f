"""ROUGE-L: how much of two texts' words stands in the same order, from 0 to 1 (Lin, 2004)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+")
"""Letters and digits of any language: the usual tools know those of English alone and cut at ü."""


def rouge_l(answer: str, reference: str) -> float:
    """Score one answer against the expected one; case and punctuation do not count.

    The F measure of the longest common subsequence of words, without stemming; on English texts
    the figures are those of rouge-score's rougeL.
    """
    said, wanted = _words(answer), _words(reference)
    if not said and not wanted:
        return 1.0
    common = _common(said, wanted)
    return 2 * common / (len(said) + len(wanted))


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def _common(some: Sequence[str], others: Sequence[str]) -> int:
    """Count the words of the longest common subsequence, row by row of its table."""
    row = [0] * (len(others) + 1)
    for one in some:
        before = 0  # the table's value above and to the left
        for at, other in enumerate(others, start=1):
            above = row[at]
            row[at] = before + 1 if one == other else max(above, row[at - 1])
            before = above
    return row[-1]
