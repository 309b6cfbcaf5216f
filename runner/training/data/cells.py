"""Cells: the values of a row as text, as yes or no, and whether there is one at all."""

from __future__ import annotations

import json
import math
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any


class BadRowError(Exception):
    """What is wrong with a row, in words without its content, and how to fix it."""

    def __init__(self, message: str, *, hint: str) -> None:
        """Take both."""
        self.hint = hint
        super().__init__(message)


class WrittenFloat(float):
    """A number of a JSON file that remembers how it was written: 3.10 is not learned as 3.1."""

    __slots__ = ("written",)
    written: str

    def __new__(cls, text: str) -> WrittenFloat:
        """Keep the digits beside the number."""
        number = super().__new__(cls, text)
        number.written = text
        return number


_YES = {"1", "1.0", "true", "yes", "ja", "wahr", "on", "y", "j", "x"}
_NO = {"0", "0.0", "false", "no", "nein", "falsch", "off", "n"}


def missing(value: Any) -> bool:
    """Tell a cell that holds nothing: null, NaN, an empty text, list or object."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return True
    if isinstance(value, str):
        return not value or value.isspace()
    return isinstance(value, list | dict | tuple) and not value


def yes_or_no(value: Any) -> bool | None:
    """Read 1, true, "yes", "wahr" …; None where it is neither."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float | Decimal):
        return bool(value) if value in (0, 1) else None
    if isinstance(value, str):
        word = value.strip().casefold()
        return True if word in _YES else False if word in _NO else None
    return None


def as_text(value: Any, column: str) -> str:
    """Give a cell as the text to read or learn: a number as it is written, an object as its JSON.

    Raises:
        BadRowError: it is something that has no text, or holds half of a character.
    """
    if isinstance(value, str):
        text = value
    elif isinstance(value, WrittenFloat):
        text = value.written
    elif value is None:
        text = ""
    elif isinstance(value, datetime | date | time):
        text = value.isoformat()
    elif isinstance(value, Decimal):
        text = str(value)
    else:
        try:
            text = json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError):
            what = f"{column!r} holds bytes or something else that is not text"
            raise BadRowError(what, hint="Write it as text.") from None
    return whole_characters(text, column)


def whole_characters(text: str, column: str) -> str:
    """JSON can spell half a character by its escape; no tokenizer can read it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        what = f"{column!r} holds half of a Unicode character"
        hint = "Save the file again as UTF-8; an emoji was cut in two."
        raise BadRowError(what, hint=hint) from None
    return text


def parsed(value: Any, column: str) -> Any:
    """Read a list or an object that stands as JSON in a text, as CSV files have it.

    Raises:
        BadRowError: the text is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        what = f"{column!r} is text, but not valid JSON"
        hint = "Write it as JSON, with double quotes around names and texts."
        raise BadRowError(what, hint=hint) from None
