"""Learned rows: which rows an adapter was trained on, in its own run and in those it went on from.

A run that goes on from the adapter in use (``start_from: current``) has learned its own rows on top
of that adapter's, so its record is followed back from run to run. Each row is known by a hash of
all that it says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.contract.layout import RUN_ID, RunFolder
from runner.contract.record import read_record
from runner.errors import RunnerError
from runner.training.data.token_table import KNOWN, TRAIN, Rows, read_part, read_row_table

_RUNS = 500  # followed back: a run each night for more than a year


@dataclass(frozen=True, kw_only=True)
class Learned:
    """One run, and what it was trained on."""

    run: RunFolder
    rows: Rows
    trained: Any
    """By row, whether this very run was trained on it: then its tokens lie in prepared/train."""
    known: Any
    """By row, whether the adapter had learned it, in this run or before."""


def learned_by(run: RunFolder) -> tuple[list[Learned], list[str]]:
    """Give what an adapter was trained on, newest run first.

    Returns:
        That, and the ids of the runs whose rows cannot be known any more: their folders were
        deleted, or an older runner prepared them.
    """
    found: list[Learned] = []
    gone: list[str] = []
    seen: set[str] = set()
    following: RunFolder | None = run
    while following is not None and following.run_id not in seen and len(seen) < _RUNS:
        seen.add(following.run_id)
        one = _read(following)
        if one is None:
            gone.append(following.run_id)
        else:
            found.append(one)
        following = _before(following)
    return found, gone


def _read(run: RunFolder) -> Learned | None:
    table = run.prepared / "rows.arrow"
    try:
        rows, part = read_row_table(table), read_part(table)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    trained = part == TRAIN
    return Learned(run=run, rows=rows, trained=trained, known=trained | (part == KNOWN))


def _before(run: RunFolder) -> RunFolder | None:
    """Give the run whose adapter this one went on from."""
    try:
        name = read_record(run.record).started_from
    except (OSError, RunnerError):
        return None
    return RunFolder(run.root.parent / name) if name and RUN_ID.fullmatch(name) else None


def known_to(adapter: str) -> frozenset[str]:
    """Give the identities of all rows that another run's adapter was trained on."""
    found, _ = learned_by(RunFolder.containing(Path(adapter).resolve()))
    return frozenset(f"{int(one):016x}" for run in found for one in run.rows.content[run.known])
