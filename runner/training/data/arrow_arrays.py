"""Arrow arrays from numpy and back by their bytes.

pyarrow's own ways (`pyarrow.array`, `to_numpy`) import pandas, which takes half a second and 40 MB
in every process that tokenises.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def to_arrow(values: Any, kind: Any) -> Any:
    """Give an array of numbers or truths.

    Args:
        values: numbers, in a list or an array of numpy.
        kind: Arrow's type.
    """
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        content = np.packbits(np.asarray(values, "bool"), bitorder="little")
    else:
        content = np.ascontiguousarray(values, str(kind).replace("double", "float64"))
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(content)])


def to_arrow_lists(offsets: Any, numbers: Any) -> Any:
    """Give an array of lists of 32-bit numbers.

    Args:
        offsets: where each list begins among the numbers, and where the last one ends.
        numbers: those of all lists.
    """
    import pyarrow as pa

    where = pa.py_buffer(np.ascontiguousarray(offsets, "int32"))
    kind, inner = pa.list_(pa.int32()), to_arrow(numbers, pa.int32())
    return pa.ListArray.from_buffers(kind, len(offsets) - 1, [None, where], children=[inner])


def to_numpy(array: Any) -> Any:
    """Give what an array without gaps holds; numbers are not copied."""
    import pyarrow as pa

    begin, end = array.offset, array.offset + len(array)
    content = array.buffers()[1]
    if content is None:
        return np.zeros(0, "bool" if pa.types.is_boolean(array.type) else _named(array.type))
    if pa.types.is_boolean(array.type):
        bits = np.unpackbits(np.frombuffer(content, "uint8"), count=end, bitorder="little")
        return bits[begin:].astype("bool")
    return np.frombuffer(content, _named(array.type))[begin:end]


def column_of(batches: list[Any], name: str) -> Any:
    """Give one column of several record batches."""
    if not batches:
        return np.zeros(0, "int64")
    return np.concatenate([to_numpy(batch.column(name)) for batch in batches])


def offsets_of(lists: Any) -> Any:
    """Give where each list begins among the numbers, and where the last one ends."""
    begin = lists.offset
    content = lists.buffers()[1]
    if content is None:
        return np.zeros(1, "int32")
    return np.frombuffer(content, "int32")[begin : begin + len(lists) + 1]


def _named(kind: Any) -> str:
    return str(kind).replace("double", "float64")
