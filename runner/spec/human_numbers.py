"""Numbers as people write them: ``2e-4``, ``1_000``, ``8h``, ``24 GiB``.

Each function gives None for what is not surely a number: ``1,000`` is a thousand in one country and
one in another, so it is asked about rather than guessed.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Literal

Unit = Literal["", "hours", "gib", "share"]

_NUMBER = r"[+-]?(?:[0-9](?:_?[0-9])*)?(?:\.[0-9_]*[0-9]?)?(?:[eE][+-]?[0-9]{1,3})?"
_PLAIN = re.compile(_NUMBER)
_WITH_UNIT = re.compile(rf"({_NUMBER})\s*([a-zA-Z%]*)")
_HOURS_AND_MINUTES = re.compile(r"([0-9]{1,4})\s*h(?:ours?)?\s*([0-9]{1,2})\s*m(?:in(?:utes?)?)?")
_TYPED_BY_WORD = {
    **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d"), "-"),
    **dict.fromkeys(map(ord, "\"'`´“”„‟‘’‚‛\u00ad\u200b\u200c\u200d\u2060\ufeff"), ""),
    **dict.fromkeys(map(ord, "\u00a0\u202f\u2009"), " "),
}
"""Dashes for a minus, curly quotes, and characters that nobody sees."""
_LONGEST = 40  # characters; longer digit strings are no setting of ours
_LARGEST = 10**18

_HOURS = {
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), Decimal(1)),
    **dict.fromkeys(("d", "day", "days"), Decimal(24)),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 1 / Decimal(60)),
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1 / Decimal(3600)),
}
_GIB = {
    **dict.fromkeys(("g", "gib"), Decimal(1)),
    **dict.fromkeys(("m", "mib"), 1 / Decimal(1024)),
    **dict.fromkeys(("t", "tib"), Decimal(1024)),
    "gb": Decimal(10**9) / 2**30,  # the unit's own meaning, which is also the safer reading
    "mb": Decimal(10**6) / 2**30,
    "tb": Decimal(10**12) / 2**30,
}
_UNITS: dict[Unit, dict[str, Decimal]] = {
    "": {},
    "hours": _HOURS,
    "gib": _GIB,
    "share": {"%": 1 / Decimal(100)},
}


def number(text: str, unit: Unit = "") -> Decimal | None:
    """Read one number, with a unit where its setting has one; None when it is not surely one."""
    text = text.strip()
    if len(text) > _LONGEST or not text.isascii():
        return None
    if unit == "hours" and (parts := _HOURS_AND_MINUTES.fullmatch(text.lower())):
        return Decimal(parts[1]) + Decimal(parts[2]) / 60
    match = _WITH_UNIT.fullmatch(text)
    if not match or not any(c.isdigit() for c in match[1]):
        return None
    name = match[2].lower()
    if name and name not in _UNITS[unit]:
        return None
    value = _plain(match[1])
    if value is None or not name:
        return value
    return value * _UNITS[unit][name]


def _plain(text: str) -> Decimal | None:
    if not _PLAIN.fullmatch(text):
        return None
    try:
        value = Decimal(text.replace("_", ""))
    except ArithmeticError:
        return None
    return value if abs(value) <= _LARGEST else None


def two_readings(text: str, *, is_whole: bool) -> str | None:
    """Say how ``1.000`` would have to be written: one, or in German a thousand; None: it is clear.

    Args:
        text: as it is written.
        is_whole: nobody writes a fraction there, so 1.500 is surely 1,500.
    """
    match = re.fullmatch(r"[+-]?([1-9][0-9]{0,2})((?:\.[0-9]{3})+)", text)
    if match is None or not (is_whole or match[2].endswith(".000")):
        return None
    joined = text.replace(".", "")
    rest = match[2].replace(".", "")
    return (
        f"write {joined}" if rest.strip("0") or len(rest) > 3 else f"write {joined} or {match[1]}"
    )


def well_written(text: str, unit: Unit = "", *, is_whole: bool = False) -> str | None:
    """Say how a number with a comma, a dash for its minus or a word behind it has to be written.

    None when that is not the matter, or would be no number that the field takes: ``0,1`` are two
    cards, and no tenth of one.
    """
    plain = text.translate(_TYPED_BY_WORD).strip(" ,;")
    plain = re.sub(r"(?<=[0-9])\s+[^\W\d_]+\.?$", "", plain)
    if plain != text and (number(plain, unit) is not None):
        return f"write {plain}"
    if re.fullmatch(r"[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?", text):
        if text[0] != "0":
            return f"write {text.replace(',', '')}"
        return None if is_whole else f"write {text.replace(',', '.')}"
    if not is_whole and re.fullmatch(r"[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?", text):
        return f"write {text.replace(',', '.')}"
    return None
