"""Phrases: a sentence together with the language that it is in.

What stages and the daemon leave in the record is English; on a German page it is marked as such,
so that a screen reader pronounces it right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from runner.language.speaker import Language, Speaker
from runner.language.translate import translated
from runner.words import visible_lines

TEXT_CHARACTERS = 4000  # of one answer or message; the whole of it lies in the run's folder
_LONGEST_WORD = 400  # characters without a blank: a browser lays longer ones out slowly
_UNBROKEN = re.compile(rf"\S{{{_LONGEST_WORD}}}")


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """A text, and its language where that is not the page's."""

    text: str
    lang: str = ""


def foreign(text: str, speak: Speaker) -> Phrase:
    """Take an English sentence of the record: said anew where the table knows it, else marked."""
    said = translated(text, speak)
    if said is not None:
        return Phrase(text=shortened(said, speak))
    return Phrase(text=shortened(text, speak), lang=Language.ENGLISH)


def shortened(text: str, speak: Speaker, limit: int = TEXT_CHARACTERS) -> str:
    """Make people's text fit to be shown: nothing invisible, not longer than a page bears."""
    left = len(text) - limit
    shown = visible_lines(text[:limit].replace("\r\n", "\n").replace("\t", "    "))
    shown = _UNBROKEN.sub(lambda match: match[0] + "\u200b", shown)
    return f"{shown}\n{speak('more_characters', count=left)}" if left > 0 else shown
