"""Parquet and Arrow rows, a few at a time; what a file says of its own size is not trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runner.training.data.columns import shown
from runner.training.data.findings import Findings
from runner.training.data.row import Row
from runner.training.data.unpack import TOO_MUCH_HINT, TooMuchError, most_bytes

_ROWS = 64  # unpacked at a time: one value can stand for every row of a file
_HINT = "Save the file again, or save the rows as JSON Lines (.jsonl) or CSV."
_STREAM = b"\xff\xff\xff\xff"  # how a stream of Arrow begins; a file of Arrow begins ARROW1


def read_parquet(path: Path, file: str, findings: Findings) -> Iterator[Row]:
    """Read a Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    findings.row_numbered.add(file)
    most = most_bytes(path.stat().st_size)
    try:
        with parquet.ParquetFile(path) as table:
            facts = table.metadata
            groups = range(facts.num_row_groups)
            if sum(facts.row_group(g).total_byte_size for g in groups) > most:
                raise TooMuchError(most)
            if _names_differ(table.schema_arrow.names, file, findings):
                batches = table.iter_batches(batch_size=_ROWS, use_threads=False)
                yield from _rows(batches, file, most)
    except TooMuchError as error:
        findings.add(file, None, error.what, hint=TOO_MUCH_HINT)
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError):
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
                yield from _rows(_batches(ipc), file, most)
    except TooMuchError as error:
        findings.add(file, None, error.what, hint=TOO_MUCH_HINT)
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError):
        findings.add(file, None, "the file is not valid Arrow", hint=_HINT)


def _names_differ(names: Sequence[str], file: str, findings: Findings) -> bool:
    """Tell whether each column has a name of its own; of two, one would be lost."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        what = f"two columns have the same name: {shown(twice)}"
        findings.add(file, None, what, hint="Rename one of them, or delete it.")
    return not twice


def _batches(ipc: Any) -> Iterator[Any]:
    """Cut record batches into small ones; a stream gives them one by one, a file by number."""
    whole = (
        (ipc.get_batch(n) for n in range(ipc.num_record_batches))
        if hasattr(ipc, "num_record_batches")
        else iter(ipc)
    )
    for batch in whole:
        for at in range(0, batch.num_rows, _ROWS):
            yield batch.slice(at, _ROWS)


def _rows(batches: Iterator[Any], file: str, most: int) -> Iterator[Row]:
    """Give each row of the batches.

    Raises:
        TooMuchError: there is more in them than any data has.
    """
    number = unpacked = 0
    for batch in batches:
        columns = list(zip(batch.schema.names, batch.columns, strict=True))
        for at in range(batch.num_rows):
            value = {name: column[at].as_py() for name, column in columns}
            size = _size(value)
            unpacked += size
            if unpacked > most:
                raise TooMuchError(most)
            number += 1
            yield Row(file=file, line=number, value=value, heading=1, size=size)


def _size(value: Any) -> int:
    """Count the characters and bytes in a value, and something for whatever else it holds."""
    if isinstance(value, dict):
        return sum(_size(key) + _size(inner) for key, inner in value.items())
    if isinstance(value, list):
        return sum(map(_size, value), 8)
    return len(value) if isinstance(value, str | bytes) else 8
