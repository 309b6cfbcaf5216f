"""Arrays of Arrow made from bytes are those that pyarrow makes itself, and read back the same."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from runner.training.data.arrow_arrays import (
    column_of,
    offsets_of,
    to_arrow,
    to_arrow_lists,
    to_numpy,
)

COLUMNS: dict[str, tuple[Any, list[Any]]] = {
    "int8": (pa.int8(), [0, 1, -2, 127]),
    "int32": (pa.int32(), [0, -(2**31), 2**31 - 1]),
    "int64": (pa.int64(), [0, -(2**63), 2**63 - 1]),
    "uint64": (pa.uint64(), [0, 2**64 - 1, 7]),
    "float64": (pa.float64(), [0.1, -1e300, 0.0]),
    "bool": (pa.bool_(), [True, False, True, True, False, False, True, False, True]),
    "empty": (pa.int64(), []),
    "empty bool": (pa.bool_(), []),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_an_array_is_the_one_that_pyarrow_makes(name: str) -> None:
    """Whole, cut out of a longer one, and in several batches."""
    kind, values = COLUMNS[name]
    made = to_arrow(values, kind)
    made.validate(full=True)
    assert made.equals(pa.array(values, kind))
    assert to_numpy(made).tolist() == values
    assert to_numpy(made.slice(1)).tolist() == values[1:]
    assert to_numpy(pa.array(values, kind)).tolist() == values
    batches = [pa.record_batch([one], names=["x"]) for one in (made, made.slice(1, 2))]
    assert column_of(batches, "x").tolist() == [*values, *values[1:3]]
    assert len(column_of([], "x")) == 0


@pytest.mark.parametrize("lists", [[], [[]], [[1, 2], [], [3]], [[-100] * 5, [7]]])
def test_lists_are_those_that_pyarrow_makes(lists: list[list[int]]) -> None:
    """With where each begins; of a slice, too."""
    offsets = np.cumsum([0, *map(len, lists)])
    made = to_arrow_lists(offsets, [number for one in lists for number in one])
    made.validate(full=True)
    assert made.equals(pa.array(lists, pa.list_(pa.int32())))
    assert np.diff(offsets_of(made)).tolist() == list(map(len, lists))
    assert np.diff(offsets_of(made.slice(1))).tolist() == list(map(len, lists[1:]))


def test_pandas_is_not_imported() -> None:
    """It takes half a second and 40 MB in every process that tokenises."""
    program = (
        "import sys, pyarrow as pa\n"
        "from runner.training.data.arrow_arrays import to_arrow, to_arrow_lists, to_numpy\n"
        "lists = to_arrow_lists([0, 2], [1, 2])\n"
        "batch = pa.record_batch([to_arrow([True], pa.bool_()), lists], names=['a', 'b'])\n"
        "batch = batch.filter(to_arrow([True], pa.bool_()))\n"
        "assert to_numpy(batch.column('b').values).tolist() == [1, 2]\n"
        "assert 'pandas' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
