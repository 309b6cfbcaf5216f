"""Rows: data files (JSON Lines, JSON, CSV, Parquet) read into rows that know their line.

Every bad line is found in one pass. A problem says where and what, never what stands there: rows
are private.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.spec.file_kinds import SAVE_AS
from runner.training.data.disguised import LOOKED_AT, look_through
from runner.training.data.findings import Findings
from runner.training.data.json_rows import read_json, read_json_lines
from runner.training.data.row import Row
from runner.training.data.table_rows import read_table

PARQUET_BYTES = 8 * 1024**3  # unpacked; a small file can claim to hold a machine's memory
PARQUET_RATIO = 200  # bytes unpacked for each packed one; text packs to a tenth
_PARQUET_SMALL_BYTES = 64 * 1024**2  # so much may come out of any file, however well it packs
_PARQUET_ROWS = 64  # unpacked at a time: one value can stand for every row of a file
_PARQUET_HINT = "Save the file again, or save the rows as JSON Lines (.jsonl) or CSV."
_START = 64  # bytes: column names, or the beginning of a row, in letters without accents
_UTF8 = "Save it as UTF-8 (in Excel: 'CSV UTF-8')."

_Reader = Callable[[str, str, Findings], list[Row]]
_READERS: dict[str, _Reader] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".csv": read_table,
    ".tsv": read_table,
}
SUFFIXES = (*_READERS, ".parquet")


def read_rows(path: Path, *, shown_as: str, findings: Findings) -> list[Row]:
    """Read a snapshot file; whatever is wrong with it goes into ``findings``."""
    suffix = Path(shown_as).suffix.lower()
    if suffix not in SUFFIXES:
        readable = "save it as JSON Lines (.jsonl), JSON (.json), CSV (.csv, .tsv) or Parquet"
        what = f"{suffix} files are not read" if suffix else "files without an ending are not read"
        findings.add(shown_as, None, what, hint=SAVE_AS.get(suffix, readable))
        return []
    before = len(findings.problems)
    with path.open("rb") as file:
        other = look_through(file.read(LOOKED_AT), suffix)
    if other is not None:
        findings.add(shown_as, None, other[0], hint=other[1])
        return []
    if suffix == ".parquet":
        rows = _parquet(path, shown_as, findings)
    else:
        rows = _READERS[suffix](_decode(path.read_bytes(), shown_as, findings), shown_as, findings)
    if not rows and len(findings.problems) == before:
        hint = "Write at least one row into it, or leave the file out of the spec's data."
        findings.add(shown_as, None, "the file has no rows", hint=hint)
    return rows


def _decode(content: bytes, file: str, findings: Findings) -> str:
    """Decode UTF-8 with or without a byte-order mark, noting every line that is something else."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or _every_other_is_nul(content[:_START]):
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


def _every_other_is_nul(start: bytes) -> bool:
    """Tell UTF-16 without a mark by its letters of one byte and a zero, as in no other text."""
    pairs = len(start) // 2
    return pairs > 1 and pairs in (start[0::2].count(0), start[1::2].count(0))


def _parquet(path: Path, file: str, findings: Findings) -> list[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    findings.row_numbered.add(file)
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
                    rows.append(Row(file=file, line=len(rows) + 1, value=value, heading=1))
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError):
        findings.add(file, None, "the file is not valid Parquet", hint=_PARQUET_HINT)
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
