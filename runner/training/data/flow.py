"""Flow: data files become tokens on the disk, row by row; memory does not grow with the files.

The first rows decide how all are read; then batches go to the workers (`workers.py`) and come back
in their order. What is wrong with the rows is collected to the end: all of it is told at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from runner.spec.spec import JobSpec
from runner.training.checks.checks import Checks
from runner.training.data.conversation import Conversation
from runner.training.data.findings import Findings
from runner.training.data.formats import DECIDING, Rules, convert, decide, nothing_to_learn
from runner.training.data.row import Row
from runner.training.data.row_work import Batch, Done, Work
from runner.training.data.rows import JSON_LINES, stream_rows
from runner.training.data.snapshot import Copied
from runner.training.data.template import Template
from runner.training.data.token_table import (
    ROWS_AT_ONCE,
    TableWriter,
    rows_schema,
    tokens_schema,
)
from runner.training.data.unpack import inner_name
from runner.training.data.workers import Workers, work_through

_BATCH_ROWS = 256
_BATCH_CHARS = 512 * 1024
"""Rows of one batch. Tokens, offsets and labels of half a million letters take about 30 MB while
they are worked on, and a few batches are under way at once."""

_DECIDING_CHARS = 16 * 1024 * 1024


@dataclass(kw_only=True)
class Flowed:
    """What came out of all rows."""

    rules: Rules
    counts: list[int] = field(default_factory=list)
    """Rows of each file."""
    read: int = 0
    """Rows that are conversations to learn from."""
    highest: int = 0
    """Token id."""
    checks: Checks = field(default_factory=Checks)

    @property
    def total(self) -> int:
        """All rows of all files."""
        return sum(self.counts)


@dataclass(frozen=True, kw_only=True)
class Source:
    """The rows of a job's files, as often as they are needed."""

    copies: Sequence[Copied]
    spec: JobSpec

    def rows_of(
        self, copy: Copied, findings: Findings, *, only: Collection[int] | None = None
    ) -> Iterator[Row]:
        """Give each row of one file; of JSON Lines those of certain lines alone, where asked."""
        return stream_rows(
            copy.path, shown_as=copy.named, findings=findings, sheet=self.spec.sheet, only=only
        )

    def rows(self, findings: Findings, counts: list[int]) -> Iterator[tuple[int, Row]]:
        """Give each row with its file's place; count those of each file on the way."""
        for place, copy in enumerate(self.copies):
            counts.append(0)
            for row in self.rows_of(copy, findings):
                counts[place] += 1
                yield place, row


def first_rules(source: Source) -> Rules:
    """Decide how rows are read, without reading more of them."""
    return _decide(source, _first(source.rows(Findings(), [])), Findings())


def _decide(source: Source, first: Sequence[tuple[int, Row]], findings: Findings) -> Rules:
    return decide(
        [row for _, row in first],
        data_format=source.spec.format,
        system_prompt=source.spec.system_prompt,
        columns=source.spec.columns,
        findings=findings,
    )


def flow(
    source: Source,
    template: Template | None,
    work: Work,
    tables: tuple[Path, Path],
    findings: Findings,
    *,
    workers: Workers | None = None,
) -> Flowed:
    """Read, convert, render and tokenise every row; write the tokens, and what is known of rows.

    Args:
        source: the rows.
        template: the model's; None: it cannot be used, so rows are only read.
        work: what is done; its rules are decided here.
        tables: where tokens and rows are written.
        findings: takes what is wrong with the rows, and what should be known of them. What the
            template cannot render is told only where nothing is wrong with the rows themselves.
        workers: processes that were started already.
    """
    counts: list[int] = []
    rows = source.rows(findings, counts)
    first = _first(rows)
    rules = _decide(source, first, findings)
    flowed = Flowed(rules=rules, counts=counts, checks=Checks(tables[1].parent))
    unlearnable = Findings(files=findings.files)
    writers = (
        TableWriter(tables[0], tokens_schema()),
        TableWriter(tables[1], rows_schema(parted=False), at_once=ROWS_AT_ONCE),
    )
    try:
        batches = _batches(itertools.chain(first, rows), findings)
        del first
        for done in work_through(batches, replace(work, rules=rules), template, workers=workers):
            findings.take(done.findings)
            unlearnable.take(done.unlearnable)
            flowed.read += done.read
            _keep(done, flowed, template, writers)
    finally:
        for writer in writers:
            writer.close()
    if not findings.count:
        findings.take(unlearnable)
    if flowed.total and not flowed.read and not findings.count:
        nothing_to_learn(source.copies[0].named, findings)
    return flowed


def _first(rows: Iterator[tuple[int, Row]]) -> list[tuple[int, Row]]:
    """Take the rows that decide: of very long ones, fewer."""
    first: list[tuple[int, Row]] = []
    chars = 0
    for row in rows:
        first.append(row)
        chars += row[1].size
        if len(first) == DECIDING or chars >= _DECIDING_CHARS:
            break
    return first


def _keep(
    done: Done, flowed: Flowed, template: Template | None, writers: tuple[TableWriter, TableWriter]
) -> None:
    if template is None or done.tokens is None:
        return
    template.noted.take(done.noted)
    flowed.highest = max(flowed.highest, done.highest)
    flowed.checks.merge(done.checks)
    writers[0].write(done.tokens)
    writers[1].write(done.rows)


def _batches(rows: Iterator[tuple[int, Row]], findings: Findings) -> Iterator[Batch]:
    """Put rows of one file together, so many that the work on them takes a moment."""
    number, held, chars = 0, list[Row](), 0
    place = 0

    def batch() -> Batch:
        return Batch(
            file=place,
            first=number - len(held),
            rows=held,
            numbered=held[0].file in findings.row_numbered,
            only_read=findings.count > 0,
        )

    for at, row in rows:
        if held and (at != place or len(held) >= _BATCH_ROWS or chars >= _BATCH_CHARS):
            yield batch()
            held, chars = [], 0
        place = at
        held.append(row)
        chars += row.size
        number += 1
    if held:
        yield batch()


def read_again(
    source: Source,
    rules: Rules,
    counts: Sequence[int],
    wanted: Sequence[int],
    lines: Mapping[int, int],
) -> list[Conversation]:
    """Read a few rows once more, by their places in the data.

    Args:
        source: the rows.
        rules: how they are read.
        counts: rows of each file; a file without a wanted row is not opened.
        wanted: places, in order.
        lines: by place, the row's line in its file, as it was read before: the other lines of JSON
            Lines need not be parsed, which takes seconds for 100,000 of them.
    """
    found: list[Conversation] = []
    begin = 0
    for copy, count in zip(source.copies, counts, strict=True):
        here = [number for number in wanted if begin <= number < begin + count]
        rows = _by_line(source, copy, here, lines) if here else {}
        if len(rows) != len(here):
            stream = source.rows_of(copy, Findings())
            among = set(here)
            numbered = enumerate(itertools.islice(stream, here[-1] - begin + 1), start=begin)
            rows = {number: row for number, row in numbered if number in among}
        again = (convert(rows[n], n, rules, Findings()) for n in here if n in rows)
        found += [conversation for conversation in again if conversation]
        begin += count
    return found


def _by_line(
    source: Source, copy: Copied, wanted: Sequence[int], lines: Mapping[int, int]
) -> dict[int, Row]:
    """Read rows by their lines; fewer than are wanted where lines do not tell them apart."""
    number_of = {lines[number]: number for number in wanted if number in lines}
    found: dict[int, Row] = {}
    if PurePath(inner_name(copy.named)).suffix.lower() not in JSON_LINES:
        return found
    for row in source.rows_of(copy, Findings(), only=number_of):
        number = number_of.get(row.line)
        if number in found:
            return {}  # several rows in one line
        if number is not None:
            found[number] = row
    return found
