"""Clusters: held-out rows that share a question or a file, and so are one piece of evidence."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

from runner.training.data.token_table import read_row_table

_FILES = 10
"""Of held-out rows: so many make clusters of their own. The interval of 10 is 15% wider than that
of very many, and holds the truth where the rows of a file are alike."""


def clusters_of(questions: Sequence[Hashable], files: Sequence[Hashable]) -> Sequence[Hashable]:
    """Choose what belongs together: the rows of a file where there are many files, else a question.

    A folder of one file a contract gives rows that share the contract; one large file says nothing.
    """
    return files if len(set(files)) >= _FILES else questions


def clusters_of_rows(prepared: Path, rows: Sequence[int]) -> Sequence[Hashable]:
    """Give what each of some rows belongs to; each to itself where an older runner prepared them.

    Args:
        prepared: the prepare stage's folder.
        rows: places in the data; examples of one row name the same place.
    """
    import numpy as np

    table = prepared / "rows.arrow"
    if not table.is_file():
        return rows
    known = read_row_table(table)
    order = np.argsort(known.row, kind="stable")
    at = np.searchsorted(known.row, rows, sorter=order)
    if (at == len(known)).any() or (known.row[order[at]] != np.asarray(rows)).any():
        return rows
    found = order[at]
    return clusters_of(known.place[found].tolist(), known.file[found].tolist())
