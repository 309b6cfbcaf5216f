"""Token tables: rows as Arrow, written batch by batch and read again without being loaded.

`tokens` holds the examples: ``input_ids``, ``labels`` and ``row``, the place of their row in the
data, counted over all files from 0. `rows` has one line for each row that became tokens, with what
is known of it beside them. Both are streams of Arrow; a data set of `datasets` is such a stream in
a folder with two small files of JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.files.durable import write_json
from runner.training.data.arrow_arrays import column_of, offsets_of, to_arrow, to_numpy

TRAIN, HELD_OUT, LEFT_OUT, KNOWN = 0, 1, 2, 3
"""What became of a row; the column ``part`` of prepared/rows.arrow. `KNOWN`: the adapter that the
run goes on from has learned it, and it was not drawn to be learned again (replay.py)."""


def tokens_schema() -> Any:
    """Describe the examples."""
    import pyarrow as pa

    numbers = pa.list_(pa.int32())
    return pa.schema([("input_ids", numbers), ("labels", numbers), ("row", pa.int64())])


def rows_schema(*, parted: bool) -> Any:
    """Describe what is known of each row."""
    import pyarrow as pa

    fields = [
        ("row", pa.int64()),  # its place in the data
        ("file", pa.int32()),  # its file's place among the files of the record
        ("line", pa.int64()),
        ("tokens", pa.int64()),  # of all its examples
        ("learned", pa.int64()),
        ("longest", pa.int32()),  # example
        ("place", pa.float64()),  # of its prompt between 0 and 1 (split.py)
        ("content", pa.uint64()),  # a hash of all that it says
        ("askable", pa.bool_()),
    ]
    return pa.schema([*fields, *([("part", pa.int8())] if parted else [])])


class TableWriter:
    """Writes a stream of Arrow, batch by batch."""

    def __init__(self, path: Path, schema: Any, *, at_once: int = 1) -> None:
        """Begin the file anew.

        Args:
            path: the file.
            schema: of every batch.
            at_once: rows that are joined into one batch, or more of them.
        """
        import pyarrow as pa

        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_stream(self._sink, schema)
        self._at_once, self._held = at_once, list[Any]()
        self._held_rows = 0

    def write(self, batch: Any) -> None:
        """Append a record batch; an empty one is not worth its place."""
        self._held_rows += batch.num_rows
        if batch.num_rows:
            self._held.append(batch)
        if self._held_rows >= self._at_once:
            self._write_held()

    def _write_held(self) -> None:
        import pyarrow as pa

        if self._held:
            held = self._held
            self._writer.write_batch(held[0] if len(held) == 1 else pa.concat_batches(held))
        self._held, self._held_rows = [], 0

    def close(self) -> None:
        """End the file."""
        self._write_held()
        self._writer.close()
        self._sink.close()


ROWS_AT_ONCE = 16_384
"""Rows of one batch in the table of rows: a megabyte. Its columns are looked up fifty times, and
each time every batch costs 40 microseconds, however few rows it has."""


def read_batches(path: Path, *, mapped: bool = True) -> Iterator[Any]:
    """Give the record batches of a stream, one after the other.

    Args:
        path: the file.
        mapped: pages of it are read where somebody looks at them, and stay in memory until it is
            needed; without that, each batch is read whole and forgotten.
    """
    import pyarrow as pa

    with pa.memory_map(str(path)) if mapped else pa.OSFile(str(path)) as file:
        yield from pa.ipc.open_stream(file)


class Rows:
    """What is known of every row, by column: `rows.row`, `rows.file` and so on (`rows_schema`)."""

    def __init__(self, columns: Mapping[str, Any], count: int) -> None:
        """Take the columns of so many rows."""
        self._columns, self._count = columns, count

    def __len__(self) -> int:
        return self._count

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._columns:
            raise AttributeError(name)
        return self._columns[name]

    def few(self, places: Any) -> Rows:
        """Give some of the rows, all that is known of each in memory."""
        return Rows({name: self._columns[name][places] for name in self._columns}, len(places))


class _OnDisk(Mapping[str, Any]):
    """Columns of a table of rows that are read each time somebody asks for one.

    All columns of 10 GB of rows together take half a gigabyte.
    """

    def __init__(self, path: Path) -> None:
        # Held open: whoever deletes the file, its columns can be read on.
        held = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, held)
        self.path, self._names = Path(f"/proc/self/fd/{held}"), rows_schema(parted=False).names

    def __getitem__(self, name: str) -> Any:
        return column_of(list(read_batches(self.path)), name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def open_row_table(path: Path) -> Rows:
    """Open the table of rows; a column is read each time that it is asked for."""
    columns = _OnDisk(path)
    return Rows(columns, sum(batch.num_rows for batch in read_batches(columns.path)))


def read_row_table(path: Path) -> Rows:
    """Read the table of rows into memory, 50 bytes a row."""
    batches = list(read_batches(path))
    columns = {name: column_of(batches, name) for name in rows_schema(parted=False).names}
    return Rows(columns, sum(batch.num_rows for batch in batches))


def read_part(path: Path) -> Any:
    """Read what became of each row."""
    return column_of(list(read_batches(path)), "part")


def read_lengths_of(path: Path) -> Any:
    """Read the length of each example; none where there is no file."""
    import numpy as np

    if not path.exists():
        return np.zeros(0, "int32")
    offsets = [offsets_of(batch.column("input_ids")) for batch in read_batches(path)]
    return np.concatenate([np.diff(one) for one in offsets]).astype("int32")


def read_examples(path: Path, places: Collection[int]) -> dict[int, dict[str, Any]]:
    """Read a few examples by their places; those that there are."""
    found: dict[int, dict[str, Any]] = {}
    begin = 0
    for batch in read_batches(path):
        for place in places:
            if begin <= place < begin + batch.num_rows:
                found[place] = batch.slice(place - begin, 1).to_pylist()[0]
        begin += batch.num_rows
    return found


def write_parted_rows(source: Path, target: Path, part: Any) -> None:
    """Write the table of rows again, with what became of each."""
    import pyarrow as pa

    target.unlink(missing_ok=True)  # of an earlier try; the cache may have a link to it
    writer = TableWriter(target, rows_schema(parted=True), at_once=ROWS_AT_ONCE)
    done = 0
    for batch in read_batches(source, mapped=False):
        column = to_arrow(part[done : done + batch.num_rows], pa.int8())
        parted = [*batch.columns, column]
        writer.write(pa.record_batch(parted, schema=rows_schema(parted=True)))
        done += batch.num_rows
    writer.close()


def write_parts(tokens: Path, targets: Sequence[tuple[int, Path]], part_of_row: Any) -> list[Any]:
    """Write each part of the examples as a data set of its own; give the lengths of each.

    Args:
        tokens: all examples.
        targets: part → the folder of its data set. One without examples is not written: an empty
            data set can be saved, but not loaded again.
        part_of_row: by a row's place in the data, what became of it.
    """
    import numpy as np
    import pyarrow as pa

    writers: dict[int, TableWriter] = {}
    lengths: dict[int, list[Any]] = {part: [np.zeros(0, "int32")] for part, _ in targets}
    for _, folder in targets:
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier try
    for batch in read_batches(tokens, mapped=False):
        parts = part_of_row[to_numpy(batch.column("row"))]
        for part, folder in targets:
            mask = parts == part
            if not mask.any():
                continue
            if part not in writers:
                folder.mkdir()
                writers[part] = TableWriter(folder / DATA_FILE, _data_set_schema())
            kept = batch if mask.all() else batch.filter(to_arrow(mask, pa.bool_()))
            writers[part].write(pa.record_batch(kept.columns, schema=_data_set_schema()))
            offsets = offsets_of(kept.column("input_ids"))
            lengths[part].append(np.diff(offsets).astype("int32"))
    for part, folder in targets:
        if part in writers:
            writers[part].close()
            write_data_set_facts(folder)
    return [np.concatenate(lengths[part]) for part, _ in targets]


DATA_FILE = "data-00000-of-00001.arrow"
"""The name that `datasets` gives the only file of a data set."""
_LIST = {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "List"}
_FEATURES = {"input_ids": _LIST, "labels": _LIST, "row": {"dtype": "int64", "_type": "Value"}}


def _data_set_schema() -> Any:
    facts = {"info": {"features": _FEATURES}}
    return tokens_schema().with_metadata({"huggingface": json.dumps(facts)})


def write_data_set_facts(folder: Path) -> None:
    """Write what makes a folder with `DATA_FILE` in it a data set of `datasets`."""
    state: dict[str, Any] = {
        "_data_files": [{"filename": DATA_FILE}],
        "_fingerprint": os.urandom(8).hex(),
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    info = {"citation": "", "description": "", "features": _FEATURES, "homepage": "", "license": ""}
    write_json(folder / "state.json", state)
    write_json(folder / "dataset_info.json", info)
