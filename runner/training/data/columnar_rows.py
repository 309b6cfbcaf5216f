"""Parquet and Arrow rows, a few at a time; what a file says of its own size is not trusted."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runner.files.unreadable import require_storage
from runner.training.data.columns import shown
from runner.training.data.findings import Findings
from runner.training.data.row import Row
from runner.training.data.unpack import TOO_MUCH_HINT, TooMuchError, most_bytes

_ROWS = 64  # unpacked at a time: one value can stand for every row of a file
_BATCH_BYTES = (
    32 * 1024**2
)  # unpacked at a time, by what a Parquet file says; fewer rows where many
_BUFFER_BYTES = 1024 * 1024  # without a buffer, a column of a row group is read as a whole
MOST_AT_ONCE = 1024**3
"""Bytes of addresses that may be taken for one batch. A compressed one of Arrow is unpacked as a
whole: of 100 KB, gigabytes can come. The largest that pandas writes by default has 65,536 rows."""
_HINT = "Save the file again, or save the rows as JSON Lines (.jsonl) or CSV."
_BROKEN = "the row holds text that is not UTF-8, or a value that cannot be read"
_AT_ONCE = f"the rows from here on take more than {MOST_AT_ONCE // 1024**2} MiB of memory at once"
_STREAM = b"\xff\xff\xff\xff"  # how a stream of Arrow begins; a file of Arrow begins ARROW1


def read_parquet(path: Path, file: str, findings: Findings) -> Iterator[Row]:
    """Read a Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    findings.row_numbered.add(file)
    most = most_bytes(path.stat().st_size)
    try:
        with parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES) as table:
            facts = table.metadata
            groups = range(facts.num_row_groups)
            if sum(facts.row_group(g).total_byte_size for g in groups) > most:
                raise TooMuchError(most)
            if _names_differ(table.schema_arrow.names, file, findings):
                claimed = max((_row_bytes(facts.row_group(g)) for g in groups), default=0)
                at_once = max(1, min(_ROWS, _BATCH_BYTES // max(1, claimed)))
                batches = table.iter_batches(batch_size=at_once, use_threads=False)
                yield from _rows(((batch, True) for batch in batches), file, most, findings)
    except TooMuchError as error:
        findings.add(file, None, error.what, hint=TOO_MUCH_HINT)
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        require_storage(error, path)
        findings.add(file, None, "the file is not valid Parquet", hint=_HINT)


def read_arrow(path: Path, file: str, findings: Findings) -> Iterator[Row]:
    """Read an Arrow file (Feather too) or an Arrow stream, as `datasets` keeps them."""
    import pyarrow as pa

    findings.row_numbered.add(file)
    most = most_bytes(path.stat().st_size)
    try:
        with path.open("rb") as opened:
            start = opened.read(len(_STREAM))
        with pa.memory_map(str(path)) as mapped:
            ipc = pa.ipc.open_stream(mapped) if start == _STREAM else pa.ipc.open_file(mapped)
            if _names_differ(ipc.schema.names, file, findings):
                yield from _rows(_batches(ipc), file, most, findings)
    except TooMuchError as error:
        findings.add(file, None, error.what, hint=TOO_MUCH_HINT)
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        require_storage(error, path)
        findings.add(file, None, "the file is not valid Arrow", hint=_HINT)


def _names_differ(names: Sequence[str], file: str, findings: Findings) -> bool:
    """Tell whether each column has a name of its own; of two, one would be lost."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        what = f"two columns have the same name: {shown(twice)}"
        findings.add(file, None, what, hint="Rename one of them, or delete it.")
    return not twice


def _row_bytes(group: Any) -> int:
    """Say how many bytes a row of a group has on average, as the file says."""
    return int(group.total_byte_size // max(1, group.num_rows))


def _batches(ipc: Any) -> Iterator[tuple[Any, bool]]:
    """Cut record batches into small ones, and tell whether all of their values can be looked at.

    A stream gives them one by one, a file by number. What lies in them is taken as it is, so a
    place that leads out of the file would end the process.
    """
    import pyarrow as pa

    whole = (
        (ipc.get_batch(n) for n in range(ipc.num_record_batches))
        if hasattr(ipc, "num_record_batches")
        else iter(ipc)
    )
    for batch in whole:
        try:
            batch.validate(full=True)
            sound = True
        except pa.ArrowInvalid:
            if any(pa.types.is_dictionary(column.type) for column in batch.columns):
                raise  # its texts belong to all rows
            sound = False
        for at in range(0, batch.num_rows, _ROWS):
            yield batch.slice(at, _ROWS), sound


def _rows(
    batches: Iterator[tuple[Any, bool]], file: str, most: int, findings: Findings
) -> Iterator[Row]:
    """Give each row of the batches.

    Raises:
        TooMuchError: there is more in them than any data has.
    """
    number = unpacked = 0
    while True:
        try:
            batch, sound = _next(batches)
        except StopIteration:
            return
        except MemoryError:
            findings.add(file, number + 1, _AT_ONCE, hint=_HINT)
            return
        columns = list(zip(batch.schema.names, map(_as_written, batch.columns), strict=True))
        for at in range(batch.num_rows):
            number += 1
            value = _value(batch, columns, at, sound=sound)
            if value is None:
                findings.add(file, number, _BROKEN, hint=_HINT)
                continue
            size = _size(value)
            unpacked += size
            if unpacked > most:
                raise TooMuchError(most)
            yield Row(file=file, line=number, value=value, heading=1, size=size)


def _next(batches: Iterator[tuple[Any, bool]]) -> tuple[Any, bool]:
    """Give the next batch, for which only so much memory may be taken.

    Raises:
        StopIteration: there is none.
        MemoryError: it takes more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MOST_AT_ONCE
    if soft != resource.RLIM_INFINITY:
        most = min(most, soft)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        return next(batches)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _value(
    batch: Any, columns: list[tuple[str, Any]], at: int, *, sound: bool
) -> dict[str, Any] | None:
    """Give a row's values by their columns; None: one of them cannot be read."""
    import pyarrow as pa

    try:
        if not sound:
            batch.slice(at, 1).validate(full=True)
        return {name: column[at].as_py() for name, column in columns}
    except (pa.ArrowInvalid, ValueError, OverflowError):  # a date beyond the year 9999, for one
        return None


def _as_written(column: Any) -> Any:
    """Give a column; numbers of 32 bits with the digits that tell them: 0.1, not 0.10000000149."""
    import pyarrow as pa

    if not pa.types.is_float32(column.type):
        return column
    return column.cast(pa.string()).cast(pa.float64())


def _size(value: Any) -> int:
    """Count the characters and bytes in a value, and something for whatever else it holds."""
    if isinstance(value, dict):
        return sum(_size(key) + _size(inner) for key, inner in value.items())
    if isinstance(value, list):
        return sum(map(_size, value), 8)
    return len(value) if isinstance(value, str | bytes) else 8
