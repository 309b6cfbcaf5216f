"""JSON value by value: a text that comes in pieces, and the line on which each value begins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from runner.training.data.cells import WrittenFloat, whole_number
from runner.training.data.columns import message_key, row_key, shown
from runner.training.data.text_source import ROW_CHARS

_ENOUGH = 64  # characters after an error that show that it is none of a cut, such as half of \u00e4
BROKEN = "Compare the line with the others: a comma, a quote or a bracket is missing or left over."
LINE = (
    'Each line must be one whole JSON object, such as {"question": "…", "answer": "…"}, with '
    "straight double quotes."
)
ESCAPE = r"Write it as JSON does: \t for a tab, \n for the end of a line."
TWICE = "Keep one of the two."


class TwiceError(ValueError):
    """A key that stands twice in one object; JSON's readers keep the last one in silence."""

    def __init__(self, name: str) -> None:
        known = row_key(name).meaning is not None or message_key(name).meaning is not None
        self.what = f"the key {shown([name])!r} stands twice" if known else "a key stands twice"
        super().__init__(self.what)


class TooLongError(ValueError):
    """A value that is longer than a row may be, or that never ends."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise TwiceError(next(name for at, name in enumerate(names) if name in names[:at]))
    return made


DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=WrittenFloat, parse_int=whole_number
)


def loads(text: str) -> Any:
    """Parse JSON; whatever the parser dislikes is a ValueError."""
    try:
        return DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_control(error: ValueError) -> bool:
    """Tell a control character as it is, within a text, from other faults."""
    return isinstance(error, json.JSONDecodeError) and error.msg.startswith("Invalid control")


class Places:
    """A place in a text that comes in pieces, and its line; what lies behind it is let go."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self.text, self.at, self.line = "", 0, 1
        self._counted = 0  # up to here its lines are in ``line``
        self._is_whole = False

    def _more(self) -> bool:
        """Read another piece; False: there is none."""
        piece = None if self._is_whole else next(self._pieces, None)
        if piece is None:
            self._is_whole = True
            return False
        self._count()
        self.text, self.at, self._counted = self.text[self.at :] + piece, 0, 0
        return True

    def _count(self) -> None:
        self.line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at

    def line_of(self, at: int) -> int:
        """Give the line of a place further on."""
        return self.line + self.text.count("\n", self._counted, at)

    def skip(self) -> str:
        """Go over blank space; give the next character."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.text) or not self._more():
                self._count()
                return self.text[self.at : self.at + 1]

    def _is_wrong(self, error: ValueError) -> bool:
        """Tell what is wrong far before the end of what was read: more of it changes nothing."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.pos < len(self.text) - _ENOUGH and not error.msg.startswith("Unterminated")

    def value(self) -> Any:
        """Read a value.

        Raises:
            ValueError: it is not valid JSON, or longer than a row may be.
        """
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except RecursionError:
                raise ValueError("nested too deeply") from None
            except TwiceError:
                raise
            except ValueError as error:
                if self._is_wrong(error):
                    raise
                # Perhaps only its end has not been read yet.
                if len(self.text) - self.at > ROW_CHARS:
                    raise TooLongError from None
                if not self._more():
                    raise
                continue
            if end == len(self.text) and self._more():
                continue  # of a number there may be more
            self.at = end
            return value
