"""ROUGE-L: how much of two texts' words stands in the same order, from 0 to 1 (Lin, 2004)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai and Lao, Burmese, Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Kana and Han
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
"""Letters and digits of any language: the usual tools know those of English alone and cut at ü.
Where a script has no blanks between words each letter is one, as is usual for Chinese."""


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
    """Count the words of the longest common subsequence, a row of its table at once.

    The row is a number with a bit for each word of the shorter text, 0 where the count grows
    (Hyyrö, Bit-parallel LCS-length computation revisited, 2004): an expected answer of a megabyte
    takes a tenth of a second, and not minutes.
    """
    short, long = sorted((some, others), key=len)
    places: dict[str, int] = {}
    for at, word in enumerate(short):
        places[word] = places.get(word, 0) | 1 << at
    whole = row = (1 << len(short)) - 1
    for word in long:
        common = row & places.get(word, 0)
        row = (row + common | row - common) & whole
    return len(short) - row.bit_count()
