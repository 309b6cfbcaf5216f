"""Columns by name: the spec's ``columns:`` says which column of the data holds what.

A value is the name of a column, or a text with names of columns in braces: ``{clause} {question}``.
What the spec names is read, and nothing else of a row but its weight.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.spec.spec import Columns
from runner.training.data.cells import BadRowError, as_text, missing
from runner.training.data.columns import (
    TELLING,
    Meaning,
    Use,
    is_name,
    normalised,
    row_key,
    shown,
)
from runner.training.data.findings import Findings
from runner.training.data.row import Row

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
_BRACES = "Write a column's name in braces: {name}. A brace that is meant as text is written twice."
_NEAR = 0.6  # difflib's ratio: what somebody typed by hand, among a handful of names
_CANDIDATES = 3  # columns that a question is guessed to be made of, at most
_LIKELY_ANSWERS = frozenset(
    {
        *("ergebnis", "loesung", "lösung", "zusammenfassung", "bewertung", "entscheidung"),
        *("result", "solution", "summary", "target", "expected", "label"),
    }
)
"""Names that say what comes out, but not for sure: they are offered, never taken by themselves."""
_SHORT = 4  # characters on average: marks and numbers are no question and no answer


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """One field of ``columns:``."""

    target: str
    """prompt, completion, system, messages or text."""
    template: str
    names: tuple[str, ...]
    """The columns it is made of."""

    @property
    def is_column(self) -> bool:
        """Whether it is a column as it stands, and no text with columns in it."""
        return not _FIELD.search(self.template)


def read_mapping(columns: Columns) -> tuple[Mapped, ...]:
    """Read the spec's ``columns:``; empty where it has none."""
    given = columns.model_dump(exclude_none=True)
    return tuple(
        Mapped(target=target, template=template, names=names_in(template))
        for target, template in given.items()
    )


def names_in(template: str) -> tuple[str, ...]:
    """Give the columns that a value names."""
    if not _FIELD.search(template):
        return (template,)
    return tuple(found[1].strip() for found in _FIELD.finditer(template) if found[1])


def check_names(
    mapping: Sequence[Mapped], first: Sequence[Row], findings: Findings
) -> dict[str, str]:
    """Refuse names that no column has; give, for each name of the spec, the column it means.

    The same letters in another case mean the same column, where only one has them.
    """
    there = list(dict.fromkeys(name for row in first for name in row.value))
    plain: dict[str, list[str]] = {}
    for name in there:
        plain.setdefault(normalised(name), []).append(name)
    means: dict[str, str] = {}
    for mapped in mapping:
        if first and (wrong := _wrong_braces(mapped)):
            findings.once(first[0].file, None, wrong[0], hint=wrong[1])
    for name in dict.fromkeys(name for mapped in mapping for name in mapped.names):
        alike = plain.get(normalised(name), [])
        if name in there or len(alike) == 1:
            means[name] = name if name in there else alike[0]
        elif first:
            row = first[0]
            line = row.line if row.heading is None else row.heading
            what = f"the spec's columns name {name!r}, and the data has no such column"
            findings.once(row.file, line, what, hint=_instead(name, there))
    return means


def _wrong_braces(mapped: Mapped) -> tuple[str, str] | None:
    """Say what is wrong with the braces of a text with columns in it."""
    if mapped.is_column:
        return None  # a name as it stands; told where no column has it
    where = f"columns.{mapped.target} in the spec"
    if set(_FIELD.sub("", mapped.template)) & {"{", "}"}:
        return f"{where} has a brace that is left over or names no column", _BRACES
    return None if mapped.names else (f"{where} names no column", _BRACES)


def _instead(name: str, there: Sequence[str]) -> str:
    named = [other for other in there if is_name(other)]
    near = difflib.get_close_matches(normalised(name), list(map(normalised, named)), 1, _NEAR)
    meant = next((n for n in named if near and normalised(n) == near[0]), None)
    start = f"Did you mean {meant!r}? " if meant else ""
    return f"{start}Its columns are: {shown(there)}."


def apply_mapping(
    mapping: Sequence[Mapped], means: Mapping[str, str], value: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Give a row with the names that are read here, and the columns that the spec leaves out.

    Raises:
        BadRowError: a question or an answer is missing.
    """
    found: dict[str, Any] = {}
    used = {means[name] for mapped in mapping for name in mapped.names if name in means}
    for mapped in mapping:
        cells = {name: value.get(means.get(name, name)) for name in mapped.names}
        if all(missing(cell) for cell in cells.values()):
            if mapped.target != "system":
                what = f"the row has no {mapped.target}: {shown(cells)!r} is missing or empty"
                raise BadRowError(what, hint="Fill it in, or delete the row.")
            continue
        found[mapped.target] = (
            next(iter(cells.values())) if mapped.is_column else _filled(mapped.template, cells)
        )
    left: list[str] = []
    is_text = any(mapped.target == "text" for mapped in mapping)
    for name, cell in value.items():
        key = row_key(name)
        if name in used or missing(cell):
            continue
        if key.meaning is Meaning.WEIGHT or (key.meaning is Meaning.LABEL and not is_text):
            found[name] = cell  # whether a row is learned at all, whatever it is learned from
        elif key.use is not Use.HARMLESS:
            left.append(name)
    return found, left


def _filled(template: str, cells: Mapping[str, Any]) -> str:
    def put(found: re.Match[str]) -> str:
        if not found[1]:
            return found[0][0]  # {{ and }} are braces
        name = found[1].strip()
        cell = cells[name]
        return "" if missing(cell) else as_text(cell, name)

    return _FIELD.sub(put, template).strip()


# -- a guess ---------------------------------------------------------------------------------------


def guess(rows: Iterable[Row]) -> str | None:
    """Guess which columns hold questions and answers: a line for the spec, ready to be pasted.

    Of the columns that hold content, one whose name says so is taken for the answer, else the last
    one; the others for what the question is made of.
    """
    texts: dict[str, list[str]] = {}
    count = 0
    for row in rows:
        count += 1
        for name, cell in row.value.items():
            if isinstance(cell, str) and not missing(cell):
                texts.setdefault(name, []).append(cell)
    content = [name for name, cells in texts.items() if _is_content(name, cells, count)]
    kinds = {re.sub(r"\d+", "", normalised(name)) for name in content}
    if len(content) < 2 or len(kinds) < len(content):  # several questions in a row are no column
        return None
    known = [name for name in content if row_key(name).meaning is Meaning.ANSWER]
    likely = [name for name in content if normalised(name) in _LIKELY_ANSWERS]
    answer = next(iter([*known, *likely]), content[-1])
    asked = [name for name in content if name != answer][:_CANDIDATES]
    prompt = asked[0] if len(asked) == 1 else "\\n\\n".join(f"{{{name}}}" for name in asked)
    return f'columns: {{prompt: "{prompt}", completion: "{answer}"}}'


def _is_content(name: str, cells: Sequence[str], rows: int) -> bool:
    key = row_key(name)
    if not is_name(name) or '"' in name or key.use in (Use.HARMLESS, Use.REFUSED):
        return False
    if key.meaning is not None and key.meaning not in TELLING:
        return False
    filled = len(cells) >= rows / 2
    long = sum(map(len, cells)) / len(cells) > _SHORT
    return filled and long
