"""Turns a snapshot file (JSON Lines, JSON, CSV, Parquet) into rows that know their line.

Every bad line is found in one pass. A problem says where and what, never what stands there: rows
are private.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import Problem

LINE_BYTES = 64 * 1024 * 1024  # one row; far above any context a model has
PARQUET_BYTES = 8 * 1024**3  # unpacked; a small file can claim to hold a machine's memory
PARQUET_RATIO = 200  # bytes unpacked for each packed one; text packs to a tenth
_PARQUET_SMALL_BYTES = 64 * 1024**2  # so much may come out of any file, however well it packs
_PARQUET_ROWS = 64  # unpacked at a time: one value can stand for every row of a file
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")

_UTF8 = "Save it as UTF-8 (in Excel: 'CSV UTF-8')."


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row as it stands in its file."""

    file: str
    """The file as the spec names it."""
    line: int
    """1-based line where the row begins (in Parquet: the row's number)."""
    value: dict[str, Any]


@dataclass
class Findings:
    """Problems of many rows, told once per kind with the first line and the count."""

    _kinds: dict[tuple[str, str], tuple[Problem, int]] = field(default_factory=dict)

    def add(self, file: str, line: int | None, message: str, *, hint: str | None = None) -> None:
        """Note one place."""
        first = Problem(message=message, file=file, line=line, hint=hint)
        problem, count = self._kinds.get((file, message), (first, 0))
        self._kinds[file, message] = (problem, count + 1)

    @property
    def problems(self) -> list[Problem]:
        """Every kind of problem found so far: file after file, each from its first line on."""
        files = list(dict.fromkeys(file for file, _ in self._kinds))
        told = [
            Problem(message=p.message, file=p.file, line=p.line, hint=p.hint, count=count)
            for p, count in self._kinds.values()
        ]
        return sorted(told, key=lambda p: (files.index(p.file or ""), p.line or 0))


def read_rows(path: Path, *, shown_as: str, findings: Findings) -> list[Row]:
    """Read a snapshot file; whatever is wrong with it goes into ``findings``."""
    suffix = Path(shown_as).suffix.lower()
    if suffix not in SUFFIXES:
        hint = "Use JSON Lines (.jsonl), JSON (.json), CSV (.csv, .tsv) or Parquet."
        findings.add(shown_as, None, "this kind of file is not read", hint=hint)
        return []
    before = len(findings.problems)
    if suffix == ".parquet":
        rows = _parquet(path, shown_as, findings)
    else:
        text = _decode(path.read_bytes(), shown_as, findings)
        reader: Callable[[str, str, Findings], list[Row]] = _json_lines
        if suffix in (".csv", ".tsv"):
            reader = _csv
        elif suffix == ".json" and text.lstrip()[:1] != "{":
            reader = _json_array
        elif suffix == ".json" and _is_one_object(text):
            return [Row(file=shown_as, line=1, value=_loads(text))]
        rows = reader(text, shown_as, findings)
    if not rows and len(findings.problems) == before:
        findings.add(shown_as, None, "the file has no rows")
    return rows


def _decode(content: bytes, file: str, findings: Findings) -> str:
    """Decode UTF-8 with or without a byte-order mark, noting every line that is something else."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        findings.add(file, 1, "the file is UTF-16, not UTF-8", hint=_UTF8)
        return ""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            line.decode()
        except UnicodeDecodeError:
            findings.add(file, number, "the line is not UTF-8", hint=_UTF8)
            # Emptied, so that the other problems of the file are still found in this pass.
            lines[number - 1] = b""
    return b"\n".join(lines).decode("utf-8-sig")


def _loads(text: str) -> Any:
    """Parse JSON; whatever the parser dislikes is a ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _json_lines(text: str, file: str, findings: Findings) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        if len(line) > LINE_BYTES:
            findings.add(file, number, "the line is longer than 64 MiB")
            continue
        try:
            value = _loads(line)
        except ValueError:
            hint = "Each line must be one whole JSON object."
            findings.add(file, number, "the line is not valid JSON", hint=hint)
            continue
        if isinstance(value, dict):
            rows.append(Row(file=file, line=number, value=value))
        else:
            findings.add(file, number, "the line is not a JSON object")
    return rows


def _is_one_object(text: str) -> bool:
    """Tell a JSON file that is one object from JSON Lines that were named .json."""
    try:
        return isinstance(_loads(text), dict)
    except ValueError:
        return False


def _json_array(text: str, file: str, findings: Findings) -> list[Row]:
    """Read ``[{…}, {…}]`` element by element, so that each row knows its line."""
    rows: list[Row] = []
    decoder = json.JSONDecoder()
    at, line, counted = 0, 1, 0

    def skip() -> None:
        nonlocal at, line, counted
        while at < len(text) and text[at] in " \t\r\n":
            at += 1
        line += text.count("\n", counted, at)
        counted = at

    skip()
    if at == len(text):
        return []
    if text[at] != "[":
        findings.add(file, line, "the file is neither a JSON array nor JSON Lines")
        return []
    at += 1
    skip()
    if text[at : at + 1] == "]":
        return []
    while True:
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            findings.add(file, error.lineno, "the file is not valid JSON from here on")
            return rows
        except (ValueError, RecursionError):
            findings.add(file, line, "the file is not valid JSON from here on")
            return rows
        if isinstance(value, dict):
            rows.append(Row(file=file, line=line, value=value))
        else:
            findings.add(file, line, "an element of the array is not a JSON object")
        skip()
        mark = text[at : at + 1]
        at += 1
        skip()
        if mark == "]":
            if at < len(text):
                findings.add(file, line, "there is more after the end of the JSON array")
            return rows
        if mark != ",":
            findings.add(file, line, "the file is not valid JSON from here on")
            return rows


def _csv(text: str, file: str, findings: Findings) -> list[Row]:
    """Read CSV with a header line; Excel writes semicolons where the comma is a decimal mark."""
    header_line = text.partition("\n")[0]
    delimiter = max(",;\t", key=header_line.count)
    csv.field_size_limit(LINE_BYTES)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    header: list[str] | None = None
    line = 1
    try:
        for fields in reader:
            start, line = line, reader.line_num + 1
            if not any(value.strip() for value in fields):
                continue
            if header is None:
                header = [name.strip() for name in fields]
                if len(set(header)) != len(header):
                    findings.add(file, start, "two columns have the same name")
            elif len(fields) != len(header):
                hint = "A text that holds the separator or a line break needs quotes around it."
                what = "the line has another number of columns than the first line"
                findings.add(file, start, what, hint=hint)
            else:
                value = dict(zip(header, fields, strict=True))
                rows.append(Row(file=file, line=start, value=value))
    except csv.Error:
        findings.add(file, line, "the file is not valid CSV from here on (a quote is not closed)")
    return rows


def _parquet(path: Path, file: str, findings: Findings) -> list[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    rows: list[Row] = []
    try:
        with parquet.ParquetFile(path) as table:
            packed = path.stat().st_size
            most = min(PARQUET_BYTES, max(PARQUET_RATIO * packed, _PARQUET_SMALL_BYTES))
            facts = table.metadata
            groups = range(facts.num_row_groups)
            unpacked = sum(facts.row_group(g).total_byte_size for g in groups)
            if unpacked > most:
                return _unpacks_to_too_much(file, findings, most)
            unpacked = 0  # what the file says of itself need not be true
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS, use_threads=False):
                columns = list(zip(batch.schema.names, batch.columns, strict=True))
                for at in range(batch.num_rows):
                    value = {name: column[at].as_py() for name, column in columns}
                    unpacked += _size(value)
                    if unpacked > most:
                        return _unpacks_to_too_much(file, findings, most)
                    rows.append(Row(file=file, line=len(rows) + 1, value=value))
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError):
        findings.add(file, None, "the file is not valid Parquet")
    return rows


def _size(value: Any) -> int:
    """Count the characters and bytes in a value, and something for whatever else it holds."""
    if isinstance(value, dict):
        return sum(_size(key) + _size(inner) for key, inner in value.items())
    if isinstance(value, list):
        return sum(map(_size, value), 8)
    return len(value) if isinstance(value, str | bytes) else 8


def _unpacks_to_too_much(file: str, findings: Findings, most_bytes: int) -> list[Row]:
    what = f"the file unpacks to more than {most_bytes / 1024**2:.0f} MiB"
    findings.add(file, None, what, hint="Write it as JSON Lines, or in several files.")
    return []
