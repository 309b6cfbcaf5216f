"""JSON rows: JSON Lines, arrays, objects one after the other, rows under a key, pandas' tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from runner.training.data.cells import WrittenFloat
from runner.training.data.columns import TELLING, message_key, row_key, shown
from runner.training.data.findings import Findings
from runner.training.data.messages import is_list_of_messages
from runner.training.data.row import Row

LINE_BYTES = 64 * 1024 * 1024  # one row; far above any context a model has
_ROW_LISTS = ("data", "rows", "examples", "train", "items", "records", "samples", "entries")
"""Keys under which programs write the list of rows of a file."""
_MOST_COLUMNS = 1000  # of a table in pandas' form; a row has a handful
_BROKEN = "Compare the line with the others: a comma, a quote or a bracket is missing or left over."
_LINE = (
    'Each line must be one whole JSON object, such as {"question": "…", "answer": "…"}, with '
    "straight double quotes."
)
_ROW = 'Write each row as {"question": "…", "answer": "…"}.'


class _TwiceError(ValueError):
    """A key that stands twice in one object; JSON's readers keep the last one in silence."""

    def __init__(self, name: str) -> None:
        known = row_key(name).meaning is not None or message_key(name).meaning is not None
        self.what = f"the key {shown([name])!r} stands twice" if known else "a key stands twice"
        super().__init__(self.what)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for at, name in enumerate(names) if name in names[:at]))
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=WrittenFloat)
_TWICE = "Keep one of the two."


def _loads(text: str) -> Any:
    """Parse JSON; whatever the parser dislikes is a ValueError."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json_lines(text: str, file: str, findings: Findings) -> list[Row]:
    """Read a file named .jsonl: lines of objects, or what else is found under that name."""
    start = text.lstrip()[:1]
    if start == "[" and not _first_line_is_whole(text):
        return _array(text, 0, file, findings)[0]
    if start == "[" and _is_one_line(text) and not is_list_of_messages(text):
        return _array(text, 0, file, findings)[0]
    if start == "{" and not _first_line_is_whole(text) and _spans_lines(text):
        return _stream(text, file, findings)
    return _lines(text, file, findings)


def read_json(text: str, file: str, findings: Findings) -> list[Row]:
    """Read a file named .json: an array, an object that holds the rows, or JSON Lines."""
    start = text.lstrip()[:1]
    if start != "{":
        return _array(text, 0, file, findings)[0]
    try:
        whole = _loads(text)
    except _TwiceError as error:
        if _first_line_is_whole(text):
            return _lines(text, file, findings)
        findings.add(file, 1, error.what, hint=_TWICE)
        return []
    except ValueError:
        return read_json_lines(text, file, findings)
    return _one_object(whole, text, file, findings)


def _first_line_is_whole(text: str) -> bool:
    """Tell JSON Lines from what is spread over lines."""
    try:
        _loads(_without_comma(text.lstrip().partition("\n")[0]))
    except _TwiceError:
        return True
    except ValueError:
        return False
    return True


def _is_one_line(text: str) -> bool:
    return "\n" not in text.strip()


def _spans_lines(text: str) -> bool:
    """Tell whether the first object is whole over several lines."""
    at = len(text) - len(text.lstrip())
    try:
        _DECODER.raw_decode(text, at)
    except _TwiceError:
        return True
    except (ValueError, RecursionError):
        return False
    return True


def _without_comma(line: str) -> str:
    """Take off the comma that is left where the lines of an array are kept without its brackets."""
    line = line.strip()
    return line[:-1] if line.endswith("},") else line


def _lines(text: str, file: str, findings: Findings) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        if len(line) > LINE_BYTES:
            hint = "Make the row shorter, or cut it into several."
            findings.add(file, number, "the line is longer than 64 MiB", hint=hint)
            continue
        try:
            value = _loads(_without_comma(line))
        except _TwiceError as error:
            findings.add(file, number, error.what, hint=_TWICE)
            continue
        except ValueError:
            findings.add(file, number, "the line is not valid JSON", hint=_LINE)
            continue
        row = _as_row(value)
        if row is not None:
            rows.append(Row(file=file, line=number, value=row))
        else:
            findings.add(file, number, "the line is not a JSON object", hint=_LINE)
    return rows


def _as_row(value: Any) -> dict[str, Any] | None:
    """Give a value as a row: an object, or a list of messages without a name."""
    if isinstance(value, list) and is_list_of_messages(value):
        return {"messages": value}
    return value if isinstance(value, dict) else None


class _Places:
    """A place in a text, and its line."""

    def __init__(self, text: str, at: int) -> None:
        self.text, self.at = text, at
        self.line, self._counted = text.count("\n", 0, at) + 1, at

    def skip(self) -> str:
        """Go over blank space; give the next character."""
        while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
            self.at += 1
        self.line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self.text[self.at : self.at + 1]

    def value(self) -> Any:
        """Read a value.

        Raises:
            ValueError: it is not valid JSON.
        """
        try:
            value, self.at = _DECODER.raw_decode(self.text, self.at)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        return value


@dataclass(kw_only=True)
class _Placed:
    """Values with their lines; where several stand on one line, their numbers say more."""

    file: str
    lines: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def add(self, line: int, value: Any) -> None:
        """Take the next one."""
        self.lines.append(line)
        self.values.append(value)

    @property
    def after(self) -> str:
        """Say after which row something is, where the line alone would not tell."""
        return f" (after row {len(self.lines)})" if self._shared else ""

    @property
    def _shared(self) -> bool:
        return len(set(self.lines)) < len(self.lines)

    def rows(self, findings: Findings) -> list[Row]:
        """Give those that are rows, and note the others."""
        places = self.lines
        if self._shared:
            findings.row_numbered.add(self.file)
            places = list(range(1, len(self.lines) + 1))
        rows: list[Row] = []
        for place, value in zip(places, self.values, strict=True):
            row = _as_row(value)
            if row is not None:
                rows.append(Row(file=self.file, line=place, value=row))
            else:
                what = "an element of the array is not a JSON object"
                findings.add(self.file, place, what, hint=_ROW)
        return rows


def _value(places: _Places, placed: _Placed, findings: Findings) -> Iterator[Any]:
    """Give the next value, or note why there is none."""
    file = placed.file
    try:
        yield places.value()
    except _TwiceError as error:
        what = f"{error.what} in one object, and the file is not read any further{placed.after}"
        findings.add(file, places.line, what, hint=_TWICE)
    except json.JSONDecodeError as error:
        what = f"the file is not valid JSON from here on{placed.after}"
        findings.add(file, error.lineno, what, hint=_BROKEN)
    except ValueError:
        what = f"the file is not valid JSON from here on{placed.after}"
        findings.add(file, places.line, what, hint=_BROKEN)


def _array(text: str, at: int, file: str, findings: Findings) -> tuple[list[Row], int]:
    """Read ``[{…}, {…}]`` element by element, so that each row knows its place."""
    placed = _Placed(file=file)
    places = _Places(text, at)
    mark = places.skip()
    if not mark:
        return [], places.at
    if mark != "[":
        what = "the file is neither a JSON array nor JSON Lines"
        findings.add(file, places.line, what, hint=_LINE)
        return [], places.at
    places.at += 1
    if places.skip() == "]":
        return [], places.at + 1
    while True:
        line, values = places.line, list(_value(places, placed, findings))
        if not values:
            return placed.rows(findings), len(text)
        placed.add(line, values[0])
        mark = places.skip()
        line = places.line
        places.at += 1
        after = places.skip()
        if mark == "]":
            if at == 0 and after:
                what = "there is more after the end of the JSON array"
                hint = "Write all rows into one array, or one object a line."
                findings.add(file, places.line, what, hint=hint)
            return placed.rows(findings), places.at
        if mark != ",":
            what = f"the file is not valid JSON from here on{placed.after}"
            findings.add(file, line, what, hint=_BROKEN)
            return placed.rows(findings), len(text)


def _stream(text: str, file: str, findings: Findings) -> list[Row]:
    """Read objects that are each spread over lines, one after the other."""
    placed = _Placed(file=file)
    places = _Places(text, 0)
    while mark := places.skip():
        if mark == "," and placed.lines:
            places.at += 1
            continue
        line, values = places.line, list(_value(places, placed, findings))
        if not values:
            break
        placed.add(line, values[0])
    return placed.rows(findings)


# -- one object --------------------------------------------------------------------------------


def _one_object(whole: dict[str, Any], text: str, file: str, findings: Findings) -> list[Row]:
    """Read an object that holds rows, or that is the only row."""
    table = _table(whole)
    if table is not None:
        findings.row_numbered.add(file)
        return [Row(file=file, line=n, value=row) for n, row in enumerate(table, start=1)]
    lists = [name for name in whole if name.casefold() in _ROW_LISTS and _holds_rows(whole[name])]
    if len(lists) > 1:
        what = f"the file holds several lists of rows: {shown(lists)}"
        hint = "Write each list into a file of its own, and name the ones to learn in the spec."
        findings.add(file, 1, what, hint=hint)
        return []
    if not lists:
        return [Row(file=file, line=1, value=whole)]
    for name, value in whole.items():
        if name != lists[0] and _holds_rows(value):
            findings.unread(f"lists of rows in {file} not read", name)
    return _array(text, _place_of(text, lists[0]), file, findings)[0]


def _holds_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _place_of(text: str, name: str) -> int:
    """Find where the value of a top-level key begins."""
    places = _Places(text, 0)
    places.skip()
    places.at += 1
    while True:
        places.skip()
        key = places.value()
        places.skip()
        places.at += 1  # the colon
        places.skip()
        if key == name:
            return places.at
        places.value()
        places.skip()
        places.at += 1  # the comma


def _table(whole: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Read what pandas writes of a table: by columns, by rows, or split into its parts."""
    columns, data = whole.get("columns"), whole.get("data")
    if isinstance(columns, list) and isinstance(data, list):
        fits = all(isinstance(row, list) and len(row) == len(columns) for row in data)
        names = [str(name) for name in columns]
        return [dict(zip(names, row, strict=True)) for row in data] if fits and data else None
    values = list(whole.values())
    if not values or len(values[0]) == 0 if values and isinstance(values[0], dict | list) else True:
        return None
    known = [name for name in whole if row_key(name).meaning in TELLING]
    if all(isinstance(value, dict) for value in values):
        rows = list(values[0])
        if all(list(value) == rows for value in values) and len(known) >= 1:
            return [{name: whole[name][row] for name in whole} for row in rows]
        if not known and all(
            any(row_key(name).meaning in TELLING for name in row) for row in values
        ):
            return values  # orient="index": each row under its number
        return None
    return _by_lists(whole) if len(known) == len(whole) or len(known) >= 2 else None


def _by_lists(whole: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Read ``{"question": ["…", "…"], "answer": ["…", "…"]}``."""
    values = list(whole.values())
    if not all(isinstance(value, list) for value in values) or len(values) > _MOST_COLUMNS:
        return None
    if len({len(value) for value in values}) != 1 or "messages" in whole:
        return None
    if all(isinstance(item, dict) and ("role" in item or "from" in item) for item in values[0]):
        return None
    return [dict(zip(whole, row, strict=True)) for row in zip(*values, strict=True)]
