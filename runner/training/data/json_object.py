"""JSON object that holds the rows: under a key, as pandas writes a table, or as the only row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runner.training.data.columns import TELLING, Meaning, row_key, shown
from runner.training.data.findings import Findings
from runner.training.data.json_array import array, roughly
from runner.training.data.json_value import Places
from runner.training.data.row import Row

WHOLE_CHARS = 32 * 1024 * 1024
"""One object that holds the rows is read as a whole up to here, and takes ten times its size in
memory; what is larger is read on the way, and has to name its rows as `_ROW_LISTS` has them."""
_ROW_LISTS = ("data", "rows", "examples", "train", "items", "records", "samples", "entries")
"""Keys under which programs write the list of rows of a file."""
_MOST_COLUMNS = 1000  # of a table in pandas' form; a row has a handful
AS_LINES = "Write the rows as JSON Lines (.jsonl): one object a line."
_SEVERAL = "Write each list into a file of its own, and name the ones to learn in the spec."


def one_object(whole: dict[str, Any], text: str, file: str, findings: Findings) -> Iterator[Row]:
    """Read an object that holds rows, or that is the only row."""
    table = _table(whole)
    if table is not None:
        findings.row_numbered.add(file)
        for number, row in enumerate(table, start=1):
            yield Row(file=file, line=number, value=row, size=roughly(row))
        return
    lists = [name for name in whole if name.casefold() in _ROW_LISTS and _holds_rows(whole[name])]
    if len(lists) > 1:
        what = f"the file holds several lists of rows: {shown(lists)}"
        findings.add(file, 1, what, hint=_SEVERAL)
        return
    if not lists and (uneven := _uneven(whole)):
        what = f"the columns {shown(uneven)} hold lists that are no table: they differ in length"
        findings.add(file, 1, what, hint=AS_LINES)
        return
    if not lists:
        yield Row(file=file, line=1, value=whole, size=len(text))
        return
    for name, value in whole.items():
        if name != lists[0] and _holds_rows(value):
            findings.unread(f"lists of rows in {file} not read", name)
    yield from array(_place_of(text, lists[0]), file, findings, alone=False)


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


def _place_of(text: str, name: str) -> Places:
    """Find where the value of a top-level key begins."""
    places = Places(iter([text]))
    for key in _keys(places):
        if key == name:
            break
        places.value()
    return places


def _keys(places: Places) -> Iterator[str]:
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


def large_object(places: Places, file: str, findings: Findings) -> Iterator[Row]:
    """Read the rows under one key of an object that is too large to be read as a whole."""
    lists: list[str] = []
    try:
        for key in _keys(places):
            if places.text[places.at : places.at + 1] != "[":
                places.value()
                continue
            holds_rows = key.casefold() in _ROW_LISTS
            told = findings if holds_rows and not lists else Findings()
            rows = array(places, file, told, alone=False)
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
        findings.add(file, places.line, what, hint=AS_LINES)
        return
    if len(lists) > 1:
        what = f"the file holds several lists of rows: {shown(lists)}"
        findings.add(file, 1, what, hint=_SEVERAL)
    elif not lists:
        what = f"the file is one object of more than {WHOLE_CHARS // 1024**2} MiB without a list "
        findings.add(file, 1, f"{what}of rows under a known name", hint=AS_LINES)


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
