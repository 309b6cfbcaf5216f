"""Table rows: CSV and TSV as spreadsheets write them, with the line of each row.

Excel writes semicolons where the comma is a decimal mark, a line ``sep=;``, empty columns at the
right edge, and leaves out separators at the end of a line; people put a title above the heading.
"""

from __future__ import annotations

import csv
import itertools
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from runner.training.data.columns import (
    TELLING,
    Meaning,
    Use,
    normalised,
    row_key,
    shown,
)
from runner.training.data.findings import Findings
from runner.training.data.row import Row
from runner.training.data.text_source import ROW_CHARS, TextSource

_SEPARATORS = (",", ";", "\t", "|")
_RULE = re.compile(r":?-{2,}:?")
_LOOKED_AT = 64 * 1024  # characters at the top that tell the separator
_LOOKED_THROUGH = 10  # records at the top among which the heading is looked for
_NO_VALUE = {"nan", "<na>", "#n/a", "#nv", "#name?", "#value!", "#wert!", "#ref!", "#bezug!"}
_NO_VALUE |= {"#div/0!", "#null!", "#num!", "#zahl!", "#spill!", "#überlauf!", "#calc!", "#kalk!"}
_NO_VALUE |= {"#field!", "#feld!", "#blocked!", "#unknown!", "#connect!", "#busy!", "#getting_data"}
"""What pandas and Excel write into a cell that has no value, in small letters."""
_NULL = {"none", "null"}
"""The same, but these may also be an answer ("Which exceptions apply?")."""
_SIDES = (Meaning.QUESTION, Meaning.ANSWER, Meaning.TEXT)
_OTHERWISE = (
    "that is read as it is stored (0.19 for 19%, 2026-11-26 for 26.11.2026); saved as CSV, the "
    "sheet is read as it is shown"
)
_JOINED = "Delete the line; perhaps two files were joined."
_QUOTES = "A text that holds the separator or a line break needs quotes around it."


@dataclass(frozen=True, kw_only=True)
class Record:
    """The cells between two line ends that stand in no quotes."""

    line: int
    cells: list[str]
    formatted: tuple[int, ...] = ()
    """Columns whose number or date a spreadsheet shows in another form than it is read."""


@dataclass(frozen=True, kw_only=True)
class _Heading:
    """The column names and where they stand."""

    line: int
    names: list[str]
    """By column; empty where there is none."""
    above: list[Record]
    """Records before it that hold something."""


def read_table(source: TextSource, file: str, findings: Findings) -> Iterator[Row]:
    """Read a table with a line of column names."""
    csv.field_size_limit(ROW_CHARS)
    start_of_text = source.peek(_LOOKED_AT)
    told, start = _told_separator(start_of_text)
    separator = _separator(start_of_text, told)
    records = _records(source, separator, start, file, findings)
    if separator == "|":
        records = _without_frame(records)
    yield from read_records(records, file, findings)


def read_records(records: Iterator[Record], file: str, findings: Findings) -> Iterator[Row]:
    """Read records, of which one near the top holds the column names."""
    top = list(itertools.islice(records, _LOOKED_THROUGH))
    heading = _heading(top)
    if heading is None or not _usable(heading, file, findings):
        for _ in records:  # a quote that is not closed is said, too
            pass
        return
    body = (record for record in top if record.line > heading.line)
    yield from _rows(itertools.chain(body, records), heading, file, findings)


def _told_separator(text: str) -> tuple[str | None, int]:
    """Read Excel's first line ``sep=;``: the separator, and the line at which the table begins."""
    first = text.partition("\n")[0].strip().strip('"')
    if first[:4].casefold() != "sep=":
        return None, 1
    told = first[4:5] or ("\t" if text.partition("\n")[0].rstrip("\r\n").endswith("\t") else None)
    return told, 2


def _separator(text: str, told: str | None) -> str:
    """Find the separator: the one that makes known column names, else the most frequent one.

    The one that the file tells in its first line goes before, unless it makes no known name.
    """
    lines = list(itertools.islice((line for line in text.split("\n") if line.strip()), 10))
    if told and any(_known(line.strip("\r").split(told)) for line in lines):
        return told
    best, most = told or ",", (0, 0)
    for separator in _SEPARATORS:
        cells = [line.strip("\r").split(separator) for line in lines]
        known = max((_known(line) for line in cells), default=0)
        score = (known, lines[0].count(separator) if lines else 0)
        if score > most:
            best, most = separator, score
    if most[1] == 0 and most[0] <= 1:  # one column: whatever stands in no text of it
        return min(_SEPARATORS, key=lambda separator: sum(line.count(separator) for line in lines))
    return best


def _without_frame(records: Iterator[Record]) -> Iterator[Record]:
    """Read a table as Markdown draws it: lines of dashes and the outer bars are its frame."""
    framed = False
    for record in records:
        cells = [cell.strip() for cell in record.cells]
        framed = framed or (cells[0] == "" and cells[-1] == "" and len(cells) > 2)
        if framed and all(_RULE.fullmatch(cell) for cell in cells if cell):
            continue
        yield Record(line=record.line, cells=cells if framed else record.cells)


def _known(cells: Sequence[str]) -> int:
    """Count the cells that name a column which says what a row is."""
    return sum(row_key(cell.strip().strip('"')).meaning in TELLING for cell in cells)


def _records(
    source: TextSource, separator: str, start: int, file: str, findings: Findings
) -> Iterator[Record]:
    """Give every record that holds something, with the line where it begins."""
    # Blanks after each separator, as people type them: a quote behind one is still a quote.
    text = source.peek(_LOOKED_AT)
    typed = bool(re.match(rf"[^\n]*{re.escape(separator)} +", text)) and f'{separator} "' in text
    end = "\r" if "\n" not in text and "\r" in text else "\n"  # the former: a Mac of old
    lines = (f"{line}{end}" for _, line in source.lines(end))
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=typed)
    line = 1
    try:
        for cells in reader:
            begun, line = line, reader.line_num + 1
            if begun >= start and any(cell.strip() for cell in cells):
                yield Record(line=begun, cells=cells)
    except csv.Error as error:
        long = "limit" in str(error)  # the only words by which the module tells it
        why = f", or a cell is longer than {ROW_CHARS // 1024**2} MiB" if long else ""
        what = f"the file is not valid CSV from here on (a quote is not closed{why})"
        hint = 'Close the quote. A quote within a text in quotes is written twice: "".'
        findings.add(file, line, what, hint=hint)


def _heading(top: Sequence[Record]) -> _Heading | None:
    """Find the column names: the first record that has some which are known, else the first."""
    if not top:
        return None
    at = next((n for n, record in enumerate(top) if _known(record.cells)), 0)
    names = [cell.strip() for cell in top[at].cells]
    return _Heading(line=top[at].line, names=names, above=list(top[:at]))


def _usable(heading: _Heading, file: str, findings: Findings) -> bool:
    """Note what is wrong with the heading itself."""
    titles = [r for r in heading.above if sum(bool(c.strip()) for c in r.cells) <= 1]
    if len(titles) < len(heading.above):
        what = f"the column names stand in line {heading.line}, with other lines above them"
        hint = f"Delete the lines above line {heading.line}, so that the column names come first."
        findings.add(file, heading.above[0].line, what, hint=hint)
        return False
    for record in titles:
        findings.note("above the column names not read", file, record.line)
    names = [normalised(name) for name in heading.names if name]
    twice = sorted({n for n in heading.names if n and names.count(normalised(n)) > 1})
    if twice:
        what = f"two columns have the same name: {shown(twice)}"
        findings.add(file, heading.line, what, hint="Rename one of them, or delete it.")
        return False
    return True


def _rows(
    records: Iterable[Record], heading: _Heading, file: str, findings: Findings
) -> Iterator[Row]:
    """Give the rows; a line with other columns than the rest has lost a quote, and is refused."""
    names = heading.names
    width = len(names)
    widths = _Widths(width)
    index_without_name = names[0] == ""  # pandas numbers its rows without saying so
    for record in records:
        cells = record.cells
        if not widths.fit(record):
            findings.add(file, record.line, _lost(heading), hint=_QUOTES)
            continue
        if width > 1 and cells[0].strip() == names[0] and [c.strip() for c in cells] == names:
            what = "the column names stand here a second time"
            findings.add(file, record.line, what, hint=_JOINED)
            continue
        index_without_name &= not cells[0].strip() or cells[0].strip().isdigit()
        first = 1 if index_without_name else 0
        without = next((n for n in range(first, width) if _nameless(n, names, cells)), None)
        if without is not None:
            what = f"column {without + 1} holds something, but has no name"
            hint = f"Write a name above it in line {heading.line}, or delete the column."
            findings.once(file, heading.line, what, hint=hint)
            continue
        _note_formatted(record, names, file, findings)
        padded = [*cells[:width], *[""] * (width - len(cells))]
        value = {n: _cell(n, cell) for n, cell in zip(names, padded, strict=True) if n}
        size = sum(map(len, cells))
        yield Row(file=file, line=record.line, value=value, heading=heading.line, size=size)
    for line in widths.too_short():
        findings.add(file, line, _lost(heading), hint=_QUOTES)


def _note_formatted(record: Record, names: Sequence[str], file: str, findings: Findings) -> None:
    for name in (names[n] for n in record.formatted if n < len(names)):
        if name and row_key(name).use is not Use.HARMLESS:
            findings.note(
                f"with a number or date as {shown([name])} {_OTHERWISE}", file, record.line
            )


def _lost(heading: _Heading) -> str:
    return f"the line has another number of columns than line {heading.line}"


def _nameless(column: int, names: Sequence[str], cells: Sequence[str]) -> bool:
    return not names[column] and column < len(cells) and bool(cells[column].strip())


class _Widths:
    """How many cells the lines have.

    Excel writes nothing for the empty cells at the end of a line. That is harmless in a column that
    is empty throughout; anywhere else the line may as well be half of a broken one. Whether a
    column is empty throughout is known at the end, so short lines are remembered until then.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._used = 0
        self._short: dict[int, array[int]] = {}

    def fit(self, record: Record) -> bool:
        """Tell whether a line has as many cells as those before it."""
        cells = record.cells
        used = _used(cells)
        self._used = max(self._used, min(used, self._width))
        if used > self._width or len(cells) < self._used:
            return False
        if len(cells) < self._width:
            self._short.setdefault(len(cells), array("q")).append(record.line)
        return True

    def too_short(self) -> Iterator[int]:
        """Give the lines that turned out to be shorter than a column that is used."""
        for cells, lines in self._short.items():
            if cells < self._used:
                yield from lines


def _used(cells: Sequence[str]) -> int:
    """Count the cells up to the last one that holds something."""
    return max((n for n, cell in enumerate(cells, start=1) if cell.strip()), default=0)


def _cell(name: str, cell: str) -> str | None:
    """Give a cell's text, or None where a program wrote that there is no value."""
    word = cell.strip().casefold()
    if word in _NO_VALUE or (word in _NULL and row_key(name).meaning not in _SIDES):
        return None
    return cell.replace("\r\n", "\n")  # the end of a line as the file has it, not as text has it
