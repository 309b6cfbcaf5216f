"""JSON rows: JSON Lines, arrays, objects one after the other, rows under a key, pandas' tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from runner.training.data.cells import WrittenFloat
from runner.training.data.columns import TELLING, Meaning, message_key, row_key, shown
from runner.training.data.findings import Findings
from runner.training.data.messages import is_list_of_messages
from runner.training.data.row import Row
from runner.training.data.text_source import ROW_CHARS, TextSource

WHOLE_CHARS = 32 * 1024 * 1024
"""One object that holds the rows is read as a whole up to here, and takes ten times its size in
memory; what is larger is read on the way, and has to name its rows as `_ROW_LISTS` has them."""
_ROW_LISTS = ("data", "rows", "examples", "train", "items", "records", "samples", "entries")
"""Keys under which programs write the list of rows of a file."""
_ENOUGH = 64  # characters after an error that show that it is none of a cut, such as half of \u00e4
_MOST_COLUMNS = 1000  # of a table in pandas' form; a row has a handful
_BROKEN = "Compare the line with the others: a comma, a quote or a bracket is missing or left over."
_LINE = (
    'Each line must be one whole JSON object, such as {"question": "…", "answer": "…"}, with '
    "straight double quotes."
)
_ROW = 'Write each row as {"question": "…", "answer": "…"}.'
_AS_LINES = "Write the rows as JSON Lines (.jsonl): one object a line."


class _TwiceError(ValueError):
    """A key that stands twice in one object; JSON's readers keep the last one in silence."""

    def __init__(self, name: str) -> None:
        known = row_key(name).meaning is not None or message_key(name).meaning is not None
        self.what = f"the key {shown([name])!r} stands twice" if known else "a key stands twice"
        super().__init__(self.what)


class _TooLongError(ValueError):
    """A value that is longer than a row may be, or that never ends."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for at, name in enumerate(names) if name in names[:at]))
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=WrittenFloat)
_ESCAPE = r"Write it as JSON does: \t for a tab, \n for the end of a line."
_TWICE = "Keep one of the two."
_TWICE_WRITTEN = "The program that wrote the file turned each row into JSON twice: do it once."


def _loads(text: str) -> Any:
    """Parse JSON; whatever the parser dislikes is a ValueError."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json_lines(source: TextSource, file: str, findings: Findings) -> Iterator[Row]:
    """Read a file named .jsonl: lines of objects, or what else is found under that name."""
    line = source.first_line()
    whole = _is_whole(line)
    if line[:1] == "[" and not whole:
        return _array(_Places(source.pieces()), file, findings)
    if line[:1] == "[" and _is_one_line(source) and not is_list_of_messages(line):
        return _array(_Places(source.pieces()), file, findings)
    if line[:1] == "{" and not whole and _spans_lines(source):
        return _stream(source, file, findings)
    return _lines(source, file, findings)


def read_json(source: TextSource, file: str, findings: Findings) -> Iterator[Row]:
    """Read a file named .json: an array, an object that holds the rows, or JSON Lines."""
    line = source.first_line()
    if line[:1] != "{":
        return _array(_Places(source.pieces()), file, findings)
    if source.has_less_than(WHOLE_CHARS):
        return _small(source, line, file, findings)
    if _is_whole(line) or _spans_lines(source):
        return read_json_lines(source, file, findings)
    return _large_object(_Places(source.pieces()), file, findings)


def _small(source: TextSource, line: str, file: str, findings: Findings) -> Iterator[Row]:
    text = source.peek(WHOLE_CHARS)
    try:
        whole = _loads(text)
    except _TwiceError as error:
        if _is_whole(line):
            return _lines(source, file, findings)
        findings.add(file, 1, error.what, hint=_TWICE)
        return iter(())
    except ValueError:
        return read_json_lines(source, file, findings)
    return _one_object(whole, text, file, findings)


def _is_whole(line: str) -> bool:
    """Tell JSON Lines, by their first one, from what is spread over lines."""
    try:
        _loads(_without_comma(line))
    except _TwiceError:
        return True
    except ValueError:
        return False
    return True


def _is_one_line(source: TextSource) -> bool:
    return "\n" not in source.peek(ROW_CHARS).strip()


def _spans_lines(source: TextSource) -> bool:
    """Tell whether the first object is whole over several lines."""
    text = source.peek(ROW_CHARS).lstrip()
    try:
        _DECODER.raw_decode(text)
    except _TwiceError:
        return True
    except (ValueError, RecursionError):
        return False
    return True


def _without_comma(line: str) -> str:
    """Take off the comma that is left where the lines of an array are kept without its brackets."""
    line = line.strip()
    return line[:-1] if line.endswith("},") else line


def _lines(source: TextSource, file: str, findings: Findings) -> Iterator[Row]:
    for number, line in source.lines():
        if not line.strip():
            continue
        try:
            value = _loads(_without_comma(line))
        except _TwiceError as error:
            findings.add(file, number, error.what, hint=_TWICE)
            continue
        except ValueError as error:
            if _is_control(error):
                what = (
                    "the line holds a tab or another control character as it is, which JSON does "
                    "not allow"
                )
                findings.add(file, number, what, hint=_ESCAPE)
            else:
                findings.add(file, number, "the line is not valid JSON", hint=_LINE)
            continue
        row = _as_row(value)
        if row is not None:
            yield Row(file=file, line=number, value=row, size=len(line))
        elif isinstance(value, str) and _is_object(value):
            what = "the line is a JSON object that was written as a text, within quotes"
            findings.add(file, number, what, hint=_TWICE_WRITTEN)
        else:
            findings.add(file, number, "the line is not a JSON object", hint=_LINE)


def _is_control(error: ValueError) -> bool:
    return isinstance(error, json.JSONDecodeError) and error.msg.startswith("Invalid control")


def _is_object(text: str) -> bool:
    try:
        return isinstance(_loads(text), dict)
    except ValueError:
        return False


def _as_row(value: Any) -> dict[str, Any] | None:
    """Give a value as a row: an object, or a list of messages without a name."""
    if isinstance(value, list) and is_list_of_messages(value):
        return {"messages": value}
    return value if isinstance(value, dict) else None


class _Places:
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
                value, end = _DECODER.raw_decode(self.text, self.at)
            except RecursionError:
                raise ValueError("nested too deeply") from None
            except _TwiceError:
                raise
            except ValueError as error:
                if self._is_wrong(error):
                    raise
                # Perhaps only its end has not been read yet.
                if len(self.text) - self.at > ROW_CHARS:
                    raise _TooLongError from None
                if not self._more():
                    raise
                continue
            if end == len(self.text) and self._more():
                continue  # of a number there may be more
            self.at = end
            return value


class _Placed:
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
        row = _as_row(value)
        if row is not None:
            yield Row(file=self._file, line=place, value=row, size=size)
        else:
            what = "an element of the array is not a JSON object"
            self._findings.add(self._file, place, what, hint=_ROW)


class _BrokenError(Exception):
    """The file cannot be read any further; that is noted."""


def _value(places: _Places, placed: _Placed, file: str, findings: Findings) -> Any:
    """Give the next value.

    Raises:
        _BrokenError: there is none; it is noted why.
    """
    try:
        return places.value()
    except _TwiceError as error:
        what = f"{error.what} in one object, and the file is not read any further{placed.after}"
        findings.add(file, places.line, what, hint=_TWICE)
    except _TooLongError:
        most = ROW_CHARS // 1024**2
        what = f"a row is longer than {most} MiB, or a quote or bracket is not closed{placed.after}"
        findings.add(file, places.line, what, hint=f"{_BROKEN} Cut longer rows into several.")
    except json.JSONDecodeError as error:
        what, hint = f"the file is not valid JSON from here on{placed.after}", _BROKEN
        if _is_control(error):
            hint = _ESCAPE
            what = (
                "the file is not read any further: it holds a tab or another control character as "
                "it is, which JSON does not allow"
            )
        findings.add(file, places.line_of(error.pos), what, hint=hint)
    except ValueError:
        what = f"the file is not valid JSON from here on{placed.after}"
        findings.add(file, places.line, what, hint=_BROKEN)
    raise _BrokenError


def _array(places: _Places, file: str, findings: Findings, *, alone: bool = True) -> Iterator[Row]:
    """Read ``[{…}, {…}]`` element by element, so that each row knows its place.

    Args:
        places: where it begins.
        file: as it is shown.
        findings: takes what is wrong.
        alone: nothing may follow it.
    """
    placed = _Placed(file, findings)
    mark = places.skip()
    if not mark:
        return
    if mark != "[":
        what = "the file is neither a JSON array nor JSON Lines"
        findings.add(file, places.line, what, hint=_LINE)
        return
    try:
        yield from _elements(places, placed, file, findings)
    except _BrokenError:
        yield from placed.rest()
        return
    yield from placed.rest()
    if alone and places.skip():
        what = "there is more after the end of the JSON array"
        hint = "Write all rows into one array, or one object a line."
        findings.add(file, places.line, what, hint=hint)


def _elements(places: _Places, placed: _Placed, file: str, findings: Findings) -> Iterator[Row]:
    """Read from the opening bracket to the closing one.

    Raises:
        _BrokenError: there is none; it is noted why.
    """
    places.at += 1
    if places.skip() == "]":
        places.at += 1
        return
    while True:
        line = places.line
        value = _value(places, placed, file, findings)
        size = _roughly(value)
        yield from placed.add(line, value, size)
        mark = places.skip()
        line = places.line
        places.at += 1
        if mark == "]":
            return
        if mark != ",":
            what = f"the file is not valid JSON from here on{placed.after}"
            findings.add(file, line, what, hint=_BROKEN)
            raise _BrokenError
        places.skip()


def _roughly(value: Any) -> int:
    """Give the size of a row's texts, near enough to fill batches by."""
    if not isinstance(value, dict):
        return 1
    return sum(len(v) if isinstance(v, str) else 100 * _length(v) for v in value.values())


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | dict) else 1


def _stream(source: TextSource, file: str, findings: Findings) -> Iterator[Row]:
    """Read objects that are each spread over lines, one after the other."""
    placed, places = _Placed(file, findings), _Places(source.pieces())
    is_first = True
    while mark := places.skip():
        if mark == "," and not is_first:
            places.at += 1
            continue
        line = places.line
        try:
            value = _value(places, placed, file, findings)
        except _BrokenError:
            break
        is_first = False
        yield from placed.add(line, value, _roughly(value))
    yield from placed.rest()


# -- one object --------------------------------------------------------------------------------


def _one_object(whole: dict[str, Any], text: str, file: str, findings: Findings) -> Iterator[Row]:
    """Read an object that holds rows, or that is the only row."""
    table = _table(whole)
    if table is not None:
        findings.row_numbered.add(file)
        for number, row in enumerate(table, start=1):
            yield Row(file=file, line=number, value=row, size=_roughly(row))
        return
    lists = [name for name in whole if name.casefold() in _ROW_LISTS and _holds_rows(whole[name])]
    if len(lists) > 1:
        what = f"the file holds several lists of rows: {shown(lists)}"
        findings.add(file, 1, what, hint=_SEVERAL)
        return
    if not lists and (uneven := _uneven(whole)):
        what = f"the columns {shown(uneven)} hold lists that are no table: they differ in length"
        findings.add(file, 1, what, hint=_AS_LINES)
        return
    if not lists:
        yield Row(file=file, line=1, value=whole, size=len(text))
        return
    for name, value in whole.items():
        if name != lists[0] and _holds_rows(value):
            findings.unread(f"lists of rows in {file} not read", name)
    yield from _array(_place_of(text, lists[0]), file, findings, alone=False)


_SEVERAL = "Write each list into a file of its own, and name the ones to learn in the spec."


def _uneven(whole: dict[str, Any]) -> list[str]:
    """Name the columns of a table in pandas' form that is not one: their lengths differ."""
    sides = (Meaning.QUESTION, Meaning.ANSWER)
    named = [name for name in whole if row_key(name).meaning in sides]
    values = [whole[name] for name in named]
    by_number = all(isinstance(v, dict) and v and all(map(str.isdigit, v)) for v in values)
    listed = all(isinstance(v, list) and v and not _holds_rows(v) for v in values)
    differ = len({len(v) for v in values if isinstance(v, dict | list)}) > 1
    return named if differ and (by_number or listed) else []


def _holds_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _place_of(text: str, name: str) -> _Places:
    """Find where the value of a top-level key begins."""
    places = _Places(iter([text]))
    for key in _keys(places):
        if key == name:
            break
        places.value()
    return places


def _keys(places: _Places) -> Iterator[str]:
    """Go from key to key of an object, each time to where its value begins.

    Raises:
        ValueError: it is not an object.
    """
    places.skip()
    places.at += 1
    while places.skip() not in ("}", ""):
        key = places.value()
        if places.skip() != ":" or not isinstance(key, str):
            raise ValueError("no object")
        places.at += 1
        places.skip()
        yield key
        if places.skip() == ",":
            places.at += 1


def _large_object(places: _Places, file: str, findings: Findings) -> Iterator[Row]:
    """Read the rows under one key of an object that is too large to be read as a whole."""
    lists: list[str] = []
    try:
        for key in _keys(places):
            if places.text[places.at : places.at + 1] != "[":
                places.value()
                continue
            holds_rows = key.casefold() in _ROW_LISTS
            told = findings if holds_rows and not lists else Findings()
            rows = _array(places, file, told, alone=False)
            if not holds_rows:
                for _ in rows:
                    pass
                findings.unread(f"lists of rows in {file} not read", key)
                continue
            lists.append(key)
            for row in rows:
                if len(lists) == 1:
                    yield row
    except ValueError:
        what = "the file is one object that is not valid JSON, or too large to be read as a whole"
        findings.add(file, places.line, what, hint=_AS_LINES)
        return
    if len(lists) > 1:
        what = f"the file holds several lists of rows: {shown(lists)}"
        findings.add(file, 1, what, hint=_SEVERAL)
    elif not lists:
        what = f"the file is one object of more than {WHOLE_CHARS // 1024**2} MiB without a list "
        findings.add(file, 1, f"{what}of rows under a known name", hint=_AS_LINES)


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
