"""Translate: an English sentence of a record, said in another language by the table of texts.

Records and logs are written in English, whatever the box speaks. A sentence whose pattern stands in
the table as ``record_…`` is recognised, its names and figures are taken out, and it is said anew.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from functools import cache

from runner.language.speaker import Language, Speaker
from runner.language.texts import table

PREFIX = "record_"


@cache
def _patterns() -> Mapping[str, re.Pattern[str]]:
    return {key: _pattern(said["en"]) for key, said in table().items() if key.startswith(PREFIX)}


def _pattern(english: str) -> re.Pattern[str]:
    parts, seen = [], set()
    for literal, name, _, _ in string.Formatter().parse(english):
        parts.append(re.escape(literal))
        if name is not None:
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>.+?)")
            seen.add(name)
    return re.compile("".join(parts), re.DOTALL)


def translated(sentence: str, speak: Speaker) -> str | None:
    """Say a sentence of the record in the speaker's language; None: the table does not know it."""
    if speak.language is Language.ENGLISH:
        return sentence
    if len(sentence) > 2000:
        return None  # a list of problems: no sentence of the table is so long
    for key, pattern in _patterns().items():
        match = pattern.fullmatch(sentence)
        if match is not None:
            return speak(key, **match.groupdict())
    return None


def in_words_of(sentence: str, speak: Speaker) -> str:
    """Do the same, and give the English sentence where there is no other."""
    return translated(sentence, speak) or sentence
