"""JSON array of rows, and objects one after the other: each row with its line, or its number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from runner.training.data.findings import Findings
from runner.training.data.json_value import (
    BROKEN,
    ESCAPE,
    LINE,
    TWICE,
    Places,
    TooLongError,
    TwiceError,
    is_control,
)
from runner.training.data.messages import is_list_of_messages
from runner.training.data.row import Row
from runner.training.data.text_source import ROW_CHARS, TextSource

_ROW = 'Write each row as {"question": "…", "answer": "…"}.'


class Placed:
    """Rows with their lines; where they stand on one line, their numbers say more."""

    def __init__(self, file: str, findings: Findings) -> None:
        self._file, self._findings = file, findings
        self._held: tuple[int, Any, int] | None = None  # the first one, until the second is there
        self._read = self._line = 0
        self.numbered = False

    def add(self, line: int, value: Any, size: int) -> Iterator[Row]:
        """Take the next one; give those whose place is sure."""
        self._read += 1
        if self._read == 1:
            self._held = (line, value, size)
            return
        if self._read == 2 and self._held is not None:
            self._set_numbered(shared=line == self._held[0])
            yield from self._row(1, *self._held)
        yield from self._row(self._read, line, value, size)

    def rest(self) -> Iterator[Row]:
        """Give the only one there was."""
        if self._read == 1 and self._held is not None:
            yield from self._row(1, *self._held)

    def _set_numbered(self, *, shared: bool) -> None:
        self.numbered = shared
        if shared:
            self._findings.row_numbered.add(self._file)

    @property
    def after(self) -> str:
        """Say after which row something is, where the line alone would not tell."""
        return f" (after row {self._read})" if self.numbered else ""

    def _row(self, number: int, line: int, value: Any, size: int) -> Iterator[Row]:
        place = number if self.numbered else line
        row = as_row(value)
        if row is not None:
            yield Row(file=self._file, line=place, value=row, size=size)
        else:
            what = "an element of the array is not a JSON object"
            self._findings.add(self._file, place, what, hint=_ROW)


class BrokenError(Exception):
    """The file cannot be read any further; that is noted."""


def _value(places: Places, placed: Placed, file: str, findings: Findings) -> Any:
    """Give the next value.

    Raises:
        BrokenError: there is none; it is noted why.
    """
    try:
        return places.value()
    except TwiceError as error:
        what = f"{error.what} in one object, and the file is not read any further{placed.after}"
        findings.add(file, places.line, what, hint=TWICE)
    except TooLongError:
        most = ROW_CHARS // 1024**2
        what = f"a row is longer than {most} MiB, or a quote or bracket is not closed{placed.after}"
        findings.add(file, places.line, what, hint=f"{BROKEN} Cut longer rows into several.")
    except json.JSONDecodeError as error:
        what, hint = f"the file is not valid JSON from here on{placed.after}", BROKEN
        if is_control(error):
            hint = ESCAPE
            what = (
                "the file is not read any further: it holds a tab or another control character as "
                "it is, which JSON does not allow"
            )
        findings.add(file, places.line_of(error.pos), what, hint=hint)
    except ValueError:
        what = f"the file is not valid JSON from here on{placed.after}"
        findings.add(file, places.line, what, hint=BROKEN)
    raise BrokenError


def array(places: Places, file: str, findings: Findings, *, alone: bool = True) -> Iterator[Row]:
    """Read ``[{…}, {…}]`` element by element, so that each row knows its place.

    Args:
        places: where it begins.
        file: as it is shown.
        findings: takes what is wrong.
        alone: nothing may follow it.
    """
    placed = Placed(file, findings)
    mark = places.skip()
    if not mark:
        return
    if mark != "[":
        what = "the file is neither a JSON array nor JSON Lines"
        findings.add(file, places.line, what, hint=LINE)
        return
    try:
        yield from _elements(places, placed, file, findings)
    except BrokenError:
        yield from placed.rest()
        return
    yield from placed.rest()
    if alone and places.skip():
        what = "there is more after the end of the JSON array"
        hint = "Write all rows into one array, or one object a line."
        findings.add(file, places.line, what, hint=hint)


def _elements(places: Places, placed: Placed, file: str, findings: Findings) -> Iterator[Row]:
    """Read from the opening bracket to the closing one.

    Raises:
        BrokenError: there is none; it is noted why.
    """
    places.at += 1
    if places.skip() == "]":
        places.at += 1
        return
    while True:
        line = places.line
        value = _value(places, placed, file, findings)
        size = roughly(value)
        yield from placed.add(line, value, size)
        mark = places.skip()
        line = places.line
        places.at += 1
        if mark == "]":
            return
        if mark != ",":
            what = f"the file is not valid JSON from here on{placed.after}"
            findings.add(file, line, what, hint=BROKEN)
            raise BrokenError
        places.skip()


def roughly(value: Any) -> int:
    """Give the size of a row's texts, near enough to fill batches by."""
    if not isinstance(value, dict):
        return 1
    return sum(len(v) if isinstance(v, str) else 100 * _length(v) for v in value.values())


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | dict) else 1


def stream(source: TextSource, file: str, findings: Findings) -> Iterator[Row]:
    """Read objects that are each spread over lines, one after the other."""
    placed, places = Placed(file, findings), Places(source.pieces())
    is_first = True
    while mark := places.skip():
        if mark == "," and not is_first:
            places.at += 1
            continue
        line = places.line
        try:
            value = _value(places, placed, file, findings)
        except BrokenError:
            break
        is_first = False
        yield from placed.add(line, value, roughly(value))
    yield from placed.rest()


def as_row(value: Any) -> dict[str, Any] | None:
    """Give a value as a row: an object, or a list of messages without a name."""
    if isinstance(value, list) and is_list_of_messages(value):
        return {"messages": value}
    return value if isinstance(value, dict) else None
