"""Taxonomy: the fields of an answer, and whether each has a value that the job allows.

A field is a key where the answer is JSON, and a line ``Field: value`` elsewhere.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runner.contract.evaluation import Confusion

_MARKS = " \t>#*_-•`"
"""What people and models put around a field's name, in lists and in Markdown."""
_EMPHASIS = " \t*_`"
"""What Markdown puts around a value; a minus or a sharp sign (-5, C#) is its own."""
_COLON = re.compile("[:\uff1a]")
"""The second one is that of Chinese and Japanese texts."""
_LONGEST_SHOWN = 80  # characters of a value that nobody allowed
_CONFUSIONS = 20  # of a field; a person reads no more
MISSING = "(missing)"
OTHER = "(another value)"


def field_value(text: str, field: str) -> str | None:
    """Read a field of an answer; None: the answer has no such field.

    Of a field that stands there twice the first one counts. Case matters in values, not in names;
    how a letter is encoded and how many blanks there are matters in neither.
    """
    whole = as_json(text)
    if isinstance(whole, dict):
        found = _as_text(_key(whole, field))
        return None if found is None else plain(found) or None
    wanted = _name(field)
    for line in text.splitlines():
        name, *value = _COLON.split(line, maxsplit=1)
        if value and _name(name) == wanted:
            return plain(value[0].strip(_EMPHASIS)) or None
    return None


def plain(value: str) -> str:
    """Write a value as it is compared: ü as one letter, one blank where there are any.

    Files from a Mac hold ü as two characters, and text from Word has blanks that do not break.
    """
    return " ".join(unicodedata.normalize("NFC", value).split())


def as_json(text: str) -> Any:
    """Read an answer as JSON; None where it is none (and where it is null)."""
    try:
        return json.loads(
            text, parse_constant=_refuse, parse_float=_number, parse_int=_whole_number
        )
    except (ValueError, RecursionError):
        return None


def _number(text: str) -> float | str:
    """Read a number; one that is too large stays as it was written: 1e400 is not 1e500."""
    number = float(text)
    return number if math.isfinite(number) else text


def _whole_number(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:  # more digits than Python reads
        return text


def _refuse(constant: str) -> Any:
    raise ValueError(constant)  # NaN and Infinity are no JSON, whatever Python says


def _key(found: Mapping[str, Any], field: str) -> Any:
    """Find a key whatever its case; ``party.name`` also one within an object."""
    for key, value in found.items():
        if _name(key) == _name(field):
            return value
    first, dot, rest = field.partition(".")
    inner = next((v for k, v in found.items() if _name(k) == _name(first)), None) if dot else None
    return _key(inner, rest) if isinstance(inner, dict) else None


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(sorted(str(one).strip() for one in value))
    return str(value).strip() or None


def _name(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", plain(text).strip(_MARKS)).casefold()


def is_allowed(value: str | None, allowed: Sequence[str]) -> bool:
    """Whether a value is one of a field's; of a list each, written with commas between them."""
    if value is None:
        return False
    known = {plain(one) for one in allowed}
    return value in known or all(part.strip() in known for part in value.split(","))


def meant(value: str, allowed: Sequence[str]) -> str | None:
    """Find the value that was meant where only upper and lower case differ; None: there is none."""
    return next((one for one in allowed if plain(one).casefold() == value.casefold()), None)


def broken_fields(text: str, taxonomy: Mapping[str, Sequence[str]]) -> list[str]:
    """List the fields that an answer lacks, or has with a value that is not allowed."""
    return [
        field
        for field, allowed in taxonomy.items()
        if not is_allowed(field_value(text, field), allowed)
    ]


def confusions(
    pairs: Iterable[tuple[str, str]], taxonomy: Mapping[str, Sequence[str]]
) -> tuple[Confusion, ...]:
    """Count what was given for what, the most frequent first; right values are none.

    Args:
        pairs: answers, each with the expected one.
        taxonomy: the fields and their values; no other value is named, for it may be a row's text.
    """
    counted: Counter[tuple[str, str, str]] = Counter()
    for answer, reference in pairs:
        for field, allowed in taxonomy.items():
            expected, given = field_value(reference, field), field_value(answer, field)
            if given != expected and expected is not None:
                named = MISSING if given is None else given if is_allowed(given, allowed) else OTHER
                counted[field, expected[:_LONGEST_SHOWN], named[:_LONGEST_SHOWN]] += 1
    found = [
        Confusion(field=field, expected=expected, given=given, times=times)
        for (field, expected, given), times in counted.most_common()
    ]
    kept: Counter[str] = Counter()
    shown = []
    for one in found:
        kept[one.field] += 1
        if kept[one.field] <= _CONFUSIONS:
            shown.append(one)
    return tuple(shown)
