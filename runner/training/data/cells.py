"""Cells: the values of a row as text, as yes or no, and whether there is one at all."""

from __future__ import annotations

import ast
import json
import math
import unicodedata
import warnings
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from runner.training.data.sheet_child import FORMULA, MARK


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

    def __reduce__(self) -> tuple[type[WrittenFloat], tuple[str]]:
        """Travel to another process as it was written."""
        return WrittenFloat, (self.written,)


def whole_number(text: str) -> int | WrittenFloat:
    """Read a whole number; one that Python refuses for its length stays as it was written."""
    return int(text) if len(text) <= _DIGITS_MOST else WrittenFloat(text)


_DIGITS_MOST = 4_000  # of a whole number; Python's own limit is 4,300
_YES = {"1", "1.0", "1,0", "true", "yes", "ja", "wahr", "on", "y", "j", "x"}
_NO = {"0", "0.0", "0,0", "false", "no", "nein", "falsch", "off", "n"}


_CELL_MOST = 32_767
"""UTF-16 units in one cell of Excel; what is longer it cuts off without a word when it saves."""
_UNITS_MOST = 2  # a character is one or two of them
_LITERAL_MOST = 256 * 1024
"""Characters of a list in Python's form; its syntax tree takes a hundred times the memory."""
_INVISIBLE_MOST = 64  # characters that are looked at one by one
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters by their kind in Unicode that show nothing: fillers of Korean, the empty Braille cell."""


def missing(value: Any) -> bool:
    """Tell a cell that holds nothing: null, NaN, an empty or invisible text, list or object."""
    if value is None:
        return True
    if isinstance(value, float):  # of a number that somebody wrote, 1e400, the digits are there
        return not (isinstance(value, WrittenFloat) or math.isfinite(value))
    if isinstance(value, str):
        return not value or value.isspace() or _invisible(value)
    return isinstance(value, list | dict | tuple) and not value


def _invisible(text: str) -> bool:
    """Tell a text of nothing but zero-width and blank characters, as web pages and Word leave."""
    if len(text) > _INVISIBLE_MOST or (text[0].isalnum() and text[0] not in _BLANK):
        return False
    return all(
        letter.isspace() or letter in _BLANK or unicodedata.category(letter) == "Cf"
        for letter in text
    )


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
        if value[:1] == MARK:
            raise _lost(value, column)
        text = value
    elif isinstance(value, WrittenFloat):
        text = value.written
    elif value is None:
        text = ""
    elif isinstance(value, datetime | date | time):
        text = value.isoformat()
    elif isinstance(value, Decimal | timedelta):
        text = str(value)
    else:
        try:
            text = _as_json(value)
        except (TypeError, ValueError, RecursionError):
            what = f"{column!r} holds bytes or something else that is not text"
            raise BadRowError(what, hint="Write it as text.") from None
    if _CELL_MOST // _UNITS_MOST <= len(text) <= _CELL_MOST:
        _check_not_cut(text, column)
    return whole_characters(text, column)


def _as_json(value: Any) -> str:
    """Write an object as JSON, its numbers as they were written: 1e400 is no ``Infinity``."""
    if isinstance(value, WrittenFloat):
        return value.written
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        pairs = (f"{json.dumps(n, ensure_ascii=False)}: {_as_json(v)}" for n, v in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_as_json, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _lost(mark: str, column: str) -> BadRowError:
    """Say why a cell of a spreadsheet has no text of its own."""
    if mark == FORMULA:
        what = f"{column!r} is a formula whose result is not saved in the file"
        return BadRowError(what, hint="Open it in Excel or LibreOffice, and save it again.")
    what = f"{column!r} belongs to merged cells, and only the topmost of them holds the text"
    return BadRowError(what, hint="Undo the merging, and write the text into each row.")


def _check_not_cut(text: str, column: str) -> None:
    """A text cut off in its middle would be learned with an end where it has none."""
    if len(text.encode("utf-16-le", "replace")) == _CELL_MOST * 2:
        what = (
            f"{column!r} seems cut off: it has exactly {_CELL_MOST:,} characters, the most that a "
            "cell of Excel holds"
        )
        hint = (
            "Write the whole text into a .jsonl file, or part it into several rows. If nothing "
            "is missing, take one character away."
        )
        raise BadRowError(what, hint=hint)


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
    """Read a list or an object that stands in a text, as CSV files have it: JSON, or pandas' form.

    Raises:
        BadRowError: the text is neither.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_float=WrittenFloat, parse_int=whole_number)
    except (ValueError, RecursionError):
        pass
    try:
        return _python_literal(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        what = f"{column!r} is text, but not valid JSON"
        hint = (
            "Write it as JSON, with double quotes around names and texts (with pandas: "
            'to_json("rows.jsonl", orient="records", lines=True), not to_csv).'
        )
        raise BadRowError(what, hint=hint) from None


def _python_literal(text: str) -> Any:
    """Read ``[{'role': 'user', …}]``, which pandas' to_csv writes of a list; nothing is run."""
    if text.lstrip()[:1] not in ("[", "{") or len(text) > _LITERAL_MOST:
        raise ValueError("no list and no object")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they would quote the row
        found = ast.literal_eval(text.strip())
    return json.loads(json.dumps(found))  # with the types that JSON has, and no others
