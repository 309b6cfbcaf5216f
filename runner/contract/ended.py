"""Ended runs: a short line for each, so that nobody reads ten thousand records to find the newest.

`outputs/.runner/ended.jsonl` is an index and never the truth: run.json is. A line counts only while
the record looks as it did when the line was written; else the record is read. The file may be
deleted at any time: the daemon makes it again at its next start.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from runner.contract.layout import RUN_ID, Outputs, RunFolder
from runner.contract.record_head import RecordHead
from runner.contract.states import State
from runner.files.durable import append_line, write_bytes

_BYTES = 64 * 1024 * 1024
"""A larger index is not read: a line has 200 bytes, so it would be of 300,000 runs."""
_LINE = re.compile(
    rf'^\["[^"\n]*", "({RUN_ID.pattern})", "[a-z]+", \d+, "([^"\n]*)", \d+, \d+\]$', re.MULTILINE
)
"""A whole line: its run id and when the run ended. Ten thousand are found so in the time that a
thousand are parsed."""
_FINAL = {state.value for state in State if state.is_final}


class EndedRun(NamedTuple):
    """What is to be known of every run that has ended, without its record."""

    job: str
    run_id: str
    state: str
    """One of `State`, as text."""
    sequence: int
    ended_at: str
    """ISO 8601 in UTC: earlier ones sort first."""
    stamp: tuple[int, int]
    """Time of change in nanoseconds and size of its record when this was written."""

    @classmethod
    def of(cls, record: RecordHead, stamp: tuple[int, int]) -> EndedRun:
        """Take it from a record."""
        return cls(
            job=record.job,
            run_id=record.run_id,
            state=record.state.value,
            sequence=record.sequence,
            ended_at=(record.ended_at or record.created_at).isoformat(timespec="milliseconds"),
            stamp=stamp,
        )

    def as_line(self) -> bytes:
        """Write it down."""
        fields = [
            self.job,
            self.run_id,
            self.state,
            self.sequence,
            self.ended_at,
            *self.stamp,
        ]
        return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def stamp_of(record: Path | str) -> tuple[int, int] | None:
    """Tell how a run's record looks from outside; None: there is none."""
    try:
        found = os.stat(record, follow_symlinks=False)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _parsed(content: bytes) -> Iterator[list[Any]]:
    """Read lines of JSON: all together, which is quick, or one by one where one cannot be read."""
    lines = content.splitlines()
    try:
        yield from json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        for line in lines:
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def read_ended(outputs: Outputs) -> dict[str, EndedRun]:
    """Read the index by run id, in the order in which the runs ended; empty where there is none."""
    try:
        with outputs.ended.open("rb") as file:
            content = file.read(_BYTES)
    except OSError:
        return {}
    found = {}
    for fields in _parsed(content):
        with contextlib.suppress(ValueError, TypeError):  # not ours: its record is read instead
            job, run_id, state, sequence, ended_at, changed, size = fields
            if state in _FINAL:
                stamp = (int(changed), int(size))
                one = EndedRun(job, run_id, state, int(sequence), str(ended_at), stamp)
                found[run_id] = one
    return found


@dataclass(frozen=True, kw_only=True)
class SortedOut:
    """Every run of a box: those that surely have ended, and those whose record must be read."""

    ended: dict[str, EndedRun]
    """By run id, in the order in which they ended."""
    to_read: list[RunFolder]
    """Oldest run id first."""
    unreadable_folders: dict[str, str]
    """Folders directly in outputs/ that cannot be looked into: name → why."""
    index_is_exact: bool
    """Whether the index names no run that is gone or has changed."""


def sort_out(outputs: Outputs) -> SortedOut:
    """Tell runs that have ended from those of which only the record tells."""
    known = read_ended(outputs)
    holding: set[str] = set()
    to_read = []
    names, unreadable = outputs.look_through()
    for job, run_id in names:
        noted = known.get(run_id)
        # Text, not paths: of ten thousand of those the making alone takes half a second.
        record = f"{outputs.root}/{job}/{run_id}/run.json"
        if noted is not None and noted.job == job and stamp_of(record) == noted.stamp:
            holding.add(run_id)
        else:
            to_read.append(outputs.run(job, run_id))
    return SortedOut(
        ended={run_id: one for run_id, one in known.items() if run_id in holding},
        to_read=to_read,
        unreadable_folders=unreadable,
        index_is_exact=len(holding) == len(known),
    )


@dataclass(frozen=True, kw_only=True)
class Newest:
    """The runs of a box that are worth a look, of all that there are."""

    newest: list[RunFolder]
    """Of those known to have ended, the last ones."""
    to_read: list[RunFolder]
    """Those of which only the record tells."""


def newest_ended(outputs: Outputs, count: int) -> Newest:
    """Find the runs that ended last, and those not known to have ended.

    Unlike ``sort_out`` it asks no record how it looks: ten thousand of those take a tenth of a
    second. Whoever shows a run reads its record.
    """
    try:
        with outputs.ended.open("rb") as file:
            content = file.read(_BYTES)
    except OSError:
        content = b""
    ended_at = dict(_LINE.findall(content.decode(errors="replace")))
    there, to_read = outputs.tell_apart(ended_at)
    newest = heapq.nlargest(
        count, ((ended_at[run_id], run_id, job) for job, ids in there.items() for run_id in ids)
    )
    return Newest(
        newest=[outputs.run(job, run_id) for _, run_id, job in newest],
        to_read=[outputs.run(job, run_id) for job, run_id in to_read],
    )


def note_ended(outputs: Outputs, run: RunFolder, record: RecordHead) -> None:
    """Add a run that has ended; where that fails, its record is read at the next start."""
    stamp = stamp_of(run.record)
    if stamp is not None:
        with contextlib.suppress(OSError):
            append_line(outputs.ended, EndedRun.of(record, stamp).as_line())


def write_ended(outputs: Outputs, runs: Iterable[EndedRun]) -> None:
    """Write the whole index anew."""
    with contextlib.suppress(OSError):  # a full disk: the next start reads the records again
        write_bytes(outputs.ended, b"".join(one.as_line() for one in runs))
