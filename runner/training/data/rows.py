"""Rows: data files of every kind that is read, as a stream of rows that know their line.

Every bad line is found in one pass. A problem says where and what, never what stands there: rows
are private.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePath

from runner.spec.file_kinds import PACKED, READABLE, SAVE_AS, SHEETS
from runner.training.data.columnar_rows import read_arrow, read_parquet
from runner.training.data.disguised import LOOKED_AT, look_through
from runner.training.data.findings import Findings
from runner.training.data.json_rows import read_json, read_json_lines
from runner.training.data.row import Row
from runner.training.data.sheet_rows import read_sheet
from runner.training.data.table_rows import read_table
from runner.training.data.text_source import ROW_CHARS, TOO_LONG_HINT, TextSource
from runner.training.data.unpack import (
    PACKED_MARKS,
    TOO_MUCH_HINT,
    NotPackedError,
    TooMuchError,
    inner_name,
    open_bytes,
)

_TEXTS: dict[str, Callable[[TextSource, str, Findings], Iterator[Row]]] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".csv": read_table,
    ".tsv": read_table,
}
JSON_LINES = (".jsonl", ".ndjson")
_OTHERS: dict[str, Callable[[Path, str, Findings], Iterator[Row]]] = {
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
}
SUFFIXES = (*_TEXTS, *_OTHERS, *SHEETS)


def read_rows(path: Path, *, shown_as: str, findings: Findings) -> list[Row]:
    """Read a snapshot file as a whole."""
    return list(stream_rows(path, shown_as=shown_as, findings=findings))


def stream_rows(
    path: Path,
    *,
    shown_as: str,
    findings: Findings,
    sheet: str | None = None,
    only: Collection[int] | None = None,
) -> Iterator[Row]:
    """Read a snapshot file row by row; whatever is wrong with it goes into ``findings``.

    Args:
        path: the copy.
        shown_as: the file as the spec names it.
        findings: takes what is wrong.
        sheet: of a spreadsheet; None: the first one.
        only: lines that are wanted, of JSON Lines; other files give all of their rows.
    """
    before = findings.count
    rows = 0
    for row in _rows(path, shown_as, findings, sheet, only):
        if row.size > ROW_CHARS:
            what = f"the row is longer than {ROW_CHARS // 1024**2} MiB"
            findings.add(shown_as, row.line, what, hint=TOO_LONG_HINT)
            continue
        rows += 1
        yield row
    if not rows and findings.count == before:
        hint = "Write at least one row into it, or leave the file out of the spec's data."
        findings.add(shown_as, None, "the file has no rows", hint=hint)


def _rows(
    path: Path,
    shown_as: str,
    findings: Findings,
    sheet: str | None,
    only: Collection[int] | None,
) -> Iterator[Row]:
    suffix = PurePath(inner_name(shown_as)).suffix.lower()
    packed = PurePath(shown_as).suffix.lower() in PACKED
    if packed and suffix in SUFFIXES and suffix not in _TEXTS:
        what = f"compressed {suffix} files are not read"
        hint = f"Unpack it: a {suffix} file is compressed in itself."
        findings.add(shown_as, None, what, hint=hint)
        return
    if suffix not in SUFFIXES:
        what = f"{suffix} files are not read" if suffix else "files without an ending are not read"
        findings.add(shown_as, None, what, hint=SAVE_AS.get(suffix, READABLE))
        return
    if path.stat().st_size == 0:
        return
    try:
        with open_bytes(path, shown_as) as file:
            other = look_through(file.read(LOOKED_AT), suffix)
        if other is not None and packed and _is_packed_again(path, shown_as):
            what, hint = "the file was compressed twice", "Unpack it once, and name what comes out."
            findings.add(shown_as, None, what, hint=hint)
        elif other is not None:
            findings.add(shown_as, None, other[0], hint=other[1])
        elif suffix in SHEETS:
            yield from read_sheet(path, shown_as, findings, sheet)
        elif suffix in _OTHERS:
            yield from _OTHERS[suffix](path, shown_as, findings)
        else:
            with open_bytes(path, shown_as) as file:
                source = TextSource(
                    file, shown_as, findings, only=only if suffix in JSON_LINES else None
                )
                yield from _TEXTS[suffix](source, shown_as, findings)
    except TooMuchError as error:
        findings.add(shown_as, None, error.what, hint=TOO_MUCH_HINT)
    except NotPackedError:
        what, hint = _not_packed(path, shown_as)
        findings.add(shown_as, None, what, hint=hint)


def _is_packed_again(path: Path, name: str) -> bool:
    """Tell an archive within the archive."""
    with open_bytes(path, name) as file:
        start = file.read(LOOKED_AT)
    return any(start.startswith(mark) for mark in PACKED_MARKS.values())


def _not_packed(path: Path, name: str) -> tuple[str, str]:
    """Say what a file is that cannot be unpacked as its name says."""
    suffix = PurePath(inner_name(name)).suffix.lower()
    with path.open("rb") as file:
        start = file.read(LOOKED_AT)
    if start.startswith(PACKED_MARKS[PurePath(name).suffix.lower()]):
        what = "the compressed file cannot be unpacked: it is broken, or its end is missing"
        return what, "Copy it again, or compress it again (with zstd: without --long)."
    if (other := look_through(start, suffix)) is not None:
        return other
    what = "the file is not compressed, though its name says so"
    return what, f"Rename it so that it ends in {suffix}."
