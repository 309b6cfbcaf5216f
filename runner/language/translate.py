"""Translate: an English sentence of a record, said in another language by the table of texts.

Records and logs are written in English, whatever the box speaks. A sentence whose pattern stands in
the table as ``record_…`` is recognised, its names and figures are taken out, and it is said anew. A
refusal is a list of problems, each with its place, what was found and how to fix it: these are said
part by part, and the whole only where every part is known.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from functools import cache

from runner.language.speaker import Language, Speaker
from runner.language.texts import table

PREFIX = "record_"
_LONGEST = 2000  # characters of a line: no sentence of the table is so long
_LINES = 200  # a report shows 4,000 characters
_ANYBODYS = ("why", "advice")
_SENTENCES = ("what", "reason", *_ANYBODYS)
"""Names in a pattern that stand for a sentence of its own; some may be anybody's words."""
_PLACES = ("places", "where")
"""Names in a pattern that stand for files and lines."""
_NUMBERS = frozenset(
    {"count", "rows", "row", "tokens", "total", "free", "before", "after", "loss", "plain", "by"}
    | {"of", "held", "times", "score", "points", "step", "most", "limit", "size", "gib", "memory"}
    | {"length", "longer", "seconds", "minutes", "hours", "base", "other", "shapes", "forecast"}
    | {"highest", "room", "wanted", "answered", "asked", "share", "outputs", "inputs", "multiple"}
)
"""Names in a pattern that stand for figures. Versions, names and what a spec holds stay as they
are."""
_FIGURE_ALONE = re.compile(r"[-+]?[\d,]*\d(?:\.\d+)?")
_SENTENCE_END = re.compile(r"(?<=[.?!]) (?=[A-Z\d])")
_PLACE = re.compile(
    r"\b(?P<unit>lines?|rows?) (?P<numbers>\d+(?:, \d+)*(?: and \d+)?(?: more)?)(?!\w)"
)
_DETAIL = re.compile(r" {4}(?P<word>Found|Allowed|How to fix): (?P<said>.*)", re.DOTALL)
_SETTING = re.compile(r"[a-z][a-z_.]*: [\w.]+")
_MORE_PLACES = re.compile(r"(?P<said>.*) \((?P<count>\d+) places; the first is shown\)", re.DOTALL)


@cache
def _patterns() -> Mapping[str, re.Pattern[str]]:
    found = {key: said["en"] for key, said in table().items() if key.startswith(PREFIX)}
    # The longest first: a pattern may fit a part of what another one is exactly.
    order = sorted(found, key=lambda key: -len(re.sub(r"\{\w+\}", "", found[key])))
    return {key: _pattern(found[key]) for key in order}


def read_texts(speak: Speaker) -> None:
    """Read the table of texts, and make the patterns where they are used: once a process."""
    if speak.language is Language.ENGLISH:
        table()
    else:
        _patterns()


def _pattern(english: str) -> re.Pattern[str]:
    parts, seen = [], set()
    for literal, name, _, _ in string.Formatter().parse(english):
        parts.append(re.escape(literal))
        if name is not None:
            # A name before the sentence's first word is no place with its colon, "a.csv, line 2: ".
            held = "[^:]+?" if not "".join(parts) and name not in _SENTENCES else ".+?"
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{held})")
            seen.add(name)
    return re.compile("".join(parts), re.DOTALL)


def translated(sentence: str, speak: Speaker) -> str | None:
    """Say a text of the record in the speaker's language; None: the table does not know it all."""
    if speak.language is Language.ENGLISH:
        return sentence
    return _sentences(sentence, speak) or _refusal(sentence, speak) or _plan_change(sentence, speak)


def in_words_of(sentence: str, speak: Speaker) -> str:
    """Do the same, and give the English sentence where there is no other."""
    return translated(sentence, speak) or sentence


def _sentences(text: str, speak: Speaker) -> str | None:
    """Say a sentence, or several that follow each other."""
    if len(text) > _LONGEST:
        return None
    whole = _sentence(text, speak)
    if whole is not None:
        return whole
    parts = _SENTENCE_END.split(text)
    if len(parts) == 1:
        return None
    return _joined(parts, speak)


def _joined(parts: list[str], speak: Speaker) -> str | None:
    """Say sentences one by one, or two together where the table has them so."""
    said: list[str] = []
    while parts:
        for count in range(len(parts), 0, -1):
            found = _sentence(" ".join(parts[:count]), speak)
            if found is not None:
                said.append(found)
                parts = parts[count:]
                break
        else:
            return None
    return " ".join(said)


def _sentence(text: str, speak: Speaker) -> str | None:
    for key, pattern in _patterns().items():
        match = pattern.fullmatch(text)
        if match is None:
            continue
        values = {name: _value(name, value, speak) for name, value in match.groupdict().items()}
        if None not in values.values():
            return speak(key, **values)
    return None


def _value(name: str, value: str, speak: Speaker) -> str | None:
    if name in _SENTENCES:
        said = _sentences(value, speak) or _list(value, speak)
        return value if said is None and name in _ANYBODYS else said
    if name in _PLACES:
        return _places(value, speak)
    if name == "state" and speak.knows(key := f"state_{value}"):
        return speak(key)
    if name in _NUMBERS and _SENTENCE_END.search(value):
        return None  # a sentence before the figure, which is said by itself
    is_number = name in _NUMBERS or (name == "error" and _FIGURE_ALONE.fullmatch(value))
    return speak.numerals(value) if is_number else value


def _list(text: str, speak: Speaker) -> str | None:
    """Say what is a list of short sentences, or of lines of a spec, which are the same anywhere."""
    between = "; " if "; " in text else ", "
    parts = text.split(between)
    said = [p if _SETTING.fullmatch(p) else _sentence(p, speak) for p in parts]
    known = [one for one in said if one is not None]
    return between.join(known) if len(known) == len(said) > 1 else None


def _places(text: str, speak: Speaker) -> str:
    """Say lines and rows: ``lines 2, 6 and 40 more``."""

    def said(match: re.Match[str]) -> str:
        numbers = match["numbers"].replace(" and ", f" {speak('and')} ")
        numbers = re.sub(" more$", f" {speak('more')}", numbers)
        unit = speak(f"unit_{match['unit']}")
        return f"{unit} {numbers}"

    return _PLACE.sub(said, text)


def _refusal(text: str, speak: Speaker) -> str | None:
    """Say a list of problems (`runner.errors.Problem`), line by line."""
    lines = text.split("\n")
    if len(lines) > _LINES:
        return None
    said = [_line(line, speak) for line in lines]
    known = [line for line in said if line is not None]
    return "\n".join(known) if len(known) == len(said) else None


def _line(line: str, speak: Speaker) -> str | None:
    if detail := _DETAIL.fullmatch(line):
        name = detail["word"].lower().replace(" ", "_")
        word = speak(f"detail_{name}")
        said = _sentences(detail["said"], speak) if detail["word"] != "Found" else None
        if said is None and detail["word"] != "How to fix":
            said = detail["said"]  # names and figures
        return said and f"    {word}: {said}"
    if more := _MORE_PLACES.fullmatch(line):
        said = _line(more["said"], speak)
        return said and f"{said} {speak('more_places', count=more['count'])}"
    places: list[str] = []
    parts = line.split(": ")
    for at in range(len(parts)):  # file and line, and the spec's field, stand before the sentence
        said = _sentences(": ".join(parts[at:]), speak)
        if said is not None:
            return ": ".join([*places, said])
        places.append(_places(parts[at], speak))
    return None


# -- changes of a batch plan ----------------------------------------------------------------------

_PLAN = "batch_"
_FIGURE = re.compile(r"[\d,]*\d")


@cache
def _plan_words(language: Language) -> Mapping[str, str]:
    """Give the words between the figures of a plan, the longest first: English → a language.

    They stand in the same order in every language, so a change of plan is said word by word: only
    the plans themselves could say it anew, and a record lacks those between two attempts.
    """
    found: dict[str, str] = {}
    for key, said in table().items():
        if key.startswith(_PLAN):
            parts = (re.split(r"\{\w+\}", said[one]) for one in (Language.ENGLISH, language))
            found |= dict(zip(*parts, strict=True))
    words = {"× ": "× ", "→ ": "→ ", ": ": ": ", ", ": ", ", " ": " "}
    return {word: said for word, said in sorted({**words, **found}.items(), key=_longest) if word}


def _longest(words: tuple[str, str]) -> int:
    return -len(words[0])


def _plan_change(text: str, speak: Speaker) -> str | None:
    """Say how a batch plan was made smaller (`runner.contract.batch.describe_change`)."""
    words = _plan_words(speak.language)
    said, at = "", 0
    while at < len(text) and at < _LONGEST:
        if figure := _FIGURE.match(text, at):
            said, at = said + speak.numerals(figure[0]), figure.end()
            continue
        word = next((one for one in words if text.startswith(one, at)), None)
        if word is None:
            return None
        said, at = said + words[word], at + len(word)
    return said if at == len(text) else None
