"""Findings: what is wrong with the rows of data files, and what their owner should know of them.

Problems of one kind are said once, with every line that has them. All bad lines are listed in
`bad_rows.txt`; neither holds anything that stands in a row.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from runner.errors import Problem
from runner.files.durable import write_bytes
from runner.training.data.columns import shown
from runner.words import visible

BAD_ROWS = "bad_rows.txt"
"""In the prepare stage's folder; the inbox copies it beside the answer."""
LINES_KEPT = 20  # named in a sentence; a person who needs more opens bad_rows.txt
_NAMES_KEPT = 20  # columns named in a note
_MOST_KINDS = 1000
"""Kinds of problems told apart. People make a handful; a hostile file has another column name in
every row, and each would be a kind of its own."""
_FIRST = "Fix the problems above first, then drop the spec again."
_LISTED = 100_000  # lines of bad_rows.txt: 8 MB, more than any editor's user reads


@dataclass
class _Kind:
    """One kind of problem in one file."""

    problem: Problem
    count: int = 0
    lines: array[int] = field(default_factory=lambda: array("q"))  # 8 bytes a line, not 60
    of_file: bool = False
    """It is one of the whole file, said once."""


@dataclass
class Findings:
    """Problems and notes of many rows."""

    row_numbered: set[str] = field(default_factory=set)
    """Files whose places are row numbers: in them no line of text can be pointed at."""
    files: tuple[str, ...] = ()
    """The files in their order, as far as it is known: problems are told file after file."""
    known_notes: list[str] = field(default_factory=list)
    """Notes of an earlier run on the same rows, as they were said then."""
    of_files: list[str] = field(default_factory=list)
    """Notes on what lies beside the files; they are made anew in every run."""
    _kinds: dict[tuple[str, str], _Kind] = field(default_factory=dict)
    _notes: dict[str, dict[str, array[int]]] = field(default_factory=dict)
    _columns: dict[str, dict[str, None]] = field(default_factory=dict)

    def add(self, file: str, line: int | None, message: str, *, hint: str | None) -> None:
        """Note one place that has a problem, and the change that would fix it."""
        kind = self._kind(file, line, message, hint=hint)
        kind.count += 1
        if line is not None and kind.problem.file is not None:
            kind.lines.append(line)

    def once(self, file: str, line: int | None, message: str, *, hint: str | None) -> None:
        """Note a problem of a whole file, however many rows meet it."""
        if (file, message) not in self._kinds:
            self.add(file, line, message, hint=hint)
            self._kind(file, line, message, hint=hint).of_file = True

    def _kind(self, file: str, line: int | None, message: str, *, hint: str | None) -> _Kind:
        """Give the kind that a problem belongs to; it is made where there is none."""
        if (kind := self._kinds.get((file, message))) is not None:
            return kind
        if too_many := len(self._kinds) >= _MOST_KINDS:
            file, line, hint = "", None, _FIRST
            message = "there are problems of other kinds, too"
            if (kind := self._kinds.get((file, message))) is not None:
                return kind
        unit = "row" if file in self.row_numbered else "line"
        shown_file = None if too_many else file
        problem = Problem(message=message, file=shown_file, line=line, hint=hint, unit=unit)
        kind = self._kinds[file, message] = _Kind(problem=problem)
        return kind

    def note(self, sentence: str, file: str, line: int) -> None:
        """Note a place that is no problem, but that the data's owner should know of."""
        self._notes.setdefault(sentence, {}).setdefault(file, array("q")).append(line)

    def unread(self, what: str, name: str) -> None:
        """Note a column, or a key of a message, that holds something and is not read."""
        names = self._columns.setdefault(what, {})
        if len(names) < _MOST_KINDS:
            names[name] = None

    def take(self, other: Findings) -> None:
        """Add what was found in other rows."""
        self.row_numbered |= other.row_numbered
        for (file, message), kind in other._kinds.items():
            if (mine := self._kinds.get((file, message))) is None:
                mine = self._kind(file, kind.problem.line, message, hint=kind.problem.hint)
            elif kind.of_file:
                continue
            mine.of_file |= kind.of_file
            mine.count += kind.count
            mine.lines.extend(kind.lines)
        for sentence, places in other._notes.items():
            for file, lines in places.items():
                self._notes.setdefault(sentence, {}).setdefault(file, array("q")).extend(lines)
        for what, names in other._columns.items():
            for name in names:
                self.unread(what, name)

    @property
    def count(self) -> int:
        """How many places have a problem."""
        return sum(kind.count for kind in self._kinds.values())

    @property
    def problems(self) -> list[Problem]:
        """Every kind of problem found so far: file after file, each from its first line on."""
        files = list(dict.fromkeys([*self.files, *(file for file, _ in self._kinds)]))
        told = [
            replace(kind.problem, count=kind.count, lines=tuple(kind.lines[:LINES_KEPT]))
            for kind in self._kinds.values()
        ]
        return sorted(told, key=lambda p: (files.index(p.file or ""), p.line or 0))

    @property
    def notes(self) -> list[str]:
        """What the data's owner should know: columns not read, rows not learned."""
        named = [f"{what}: {shown(names, _NAMES_KEPT)}" for what, names in self._columns.items()]
        named = [*self.known_notes, *named]
        return named + [self._with_places(*note) for note in self._notes.items()]

    def _with_places(self, sentence: str, places: dict[str, array[int]]) -> str:
        count = sum(map(len, places.values()))
        where = "; ".join(
            f"{file}, {name_lines(lines, 'row' if file in self.row_numbered else 'line')}"
            for file, lines in places.items()
        )
        return f"{count} {'row' if count == 1 else 'rows'} {sentence}: {where}"

    def write_bad_rows(self, folder: Path) -> None:
        """List every bad line with its reason, in `bad_rows.txt`; nothing of a row stands in it."""
        lines = [line for _, line in zip(range(_LISTED), self._bad_rows(), strict=False)]
        write_bytes(folder / BAD_ROWS, ("\n".join(lines) + "\n").encode("utf-8", "replace"))

    def _bad_rows(self) -> Iterator[str]:
        places = (  # no list: there may be millions
            (file, line, kind.problem)
            for (file, _), kind in self._kinds.items()
            for line in (kind.lines or [0])
        )
        files = list(dict.fromkeys([*self.files, *(file for file, _ in self._kinds)]))
        first = heapq.nsmallest(_LISTED, places, key=lambda p: (files.index(p[0]), p[1]))
        for file, line, problem in first:
            where = f"{file}, {problem.unit} {line}" if line else file
            mend = f" How to fix: {problem.hint}" if problem.hint else ""
            yield visible(f"{where}: {problem.message}.{mend}")


def name_lines(lines: array[int], unit: str) -> str:
    """Name lines in words: ``lines 2, 6 and 10``, ``line 3``, ``rows 1, 2, … and 80 more``."""
    return Problem(message="", lines=tuple(lines[:LINES_KEPT]), count=len(lines), unit=unit).place
