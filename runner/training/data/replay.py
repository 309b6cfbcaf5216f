"""Replay: a share of the old rows is learned again beside the new ones, so that they are not lost.

Old rows are those that the adapter in use was trained on (``start_from: current``). Of them so many
are drawn as the spec's ``replay`` says: from the data where they still stand there, else as the
tokens that an earlier run left. What this run holds out is never among them, and neither is a row
whose question now has another answer: that one was corrected.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from runner.contract.layout import RunFolder
from runner.contract.record import Replay
from runner.errors import DataError, Problem
from runner.files.durable import TEMPORARY_PREFIX
from runner.training.data.arrow_arrays import to_arrow, to_numpy
from runner.training.data.learned import Learned, learned_by
from runner.training.data.token_table import (
    DATA_FILE,
    HELD_OUT,
    KNOWN,
    TRAIN,
    Rows,
    TableWriter,
    read_batches,
    write_data_set_facts,
)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What is learned this time."""

    part: Any
    """By row of the data, what becomes of it: `KNOWN` is an old row that is not learned again."""
    facts: Replay
    taken: list[tuple[Path, Any]] = field(default_factory=list)
    """Old rows that stand in the data no more: prepared/train of an earlier run, and their places
    in that run's data."""
    learned_tokens: int = 0
    longest: int = 0
    """Tokens of those."""

    def notes(self) -> list[str]:
        """Say it in words."""
        facts = self.facts
        found = [facts.sentence()]
        if facts.gone_runs:
            runs = ", ".join(facts.gone_runs[:3]) + (", …" if len(facts.gone_runs) > 3 else "")
            found.append(
                f"what the adapter in use learned in {runs} cannot be learned again: prepared/ is "
                "gone there or cannot be read"
            )
        return found


def choose_replay(
    source: Path, share: float, *, rows: Rows, part: Any, limit: int, seed: int
) -> Chosen:
    """Choose which old rows are learned again.

    Args:
        source: the folder of the run whose adapter is gone on from.
        share: of the old rows.
        rows: those of the data.
        part: what becomes of each where nothing is replayed.
        limit: tokens of the longest row.
        seed: of the draw; with the run's id, so that each run draws others.

    Raises:
        DataError: it cannot be known which rows are old, or none would be learned.
    """
    run = RunFolder(source)
    runs, gone = learned_by(run)
    if not runs or runs[0].run.run_id != run.run_id:
        what = f"the rows that the adapter in use ({run.run_id}) was trained on are not known"
        hint = (
            f"outputs/{run.job}/{run.run_id}/prepared/ is gone or cannot be read: take it back "
            "from a backup, leave replay out, or write start_from: fresh."
        )
        raise DataError([Problem(field="replay", message=what, hint=hint)])
    old = np.unique(np.concatenate([one.rows.content[one.known] for one in runs]))
    trained = part == TRAIN
    is_old = trained & np.isin(rows.content, old)
    held = part == HELD_OUT
    elsewhere, lost = _elsewhere(runs, rows, limit)
    here = np.unique(rows.content[is_old & ~np.isin(rows.place, rows.place[held])])
    pool = np.concatenate([here, *(one.rows.content[at] for one, at in elsewhere)])
    drawn = _draw(pool, share, key=f"{seed} {run.run_id}")
    first: Any = np.zeros(len(rows), bool)
    first[np.unique(rows.content, return_index=True)[1]] = True  # no old row twice
    again = is_old & first & np.isin(rows.content, drawn)
    made = np.where(is_old & ~again, KNOWN, part).astype("int8")
    taken = [(one, at[np.isin(one.rows.content[at], drawn)]) for one, at in elsewhere]
    new = int((trained & ~is_old).sum())
    if not new and not len(drawn):
        what = "there is nothing to learn: the adapter in use was trained on every row of the data"
        hint = "Add new rows, or give replay a share above 0, such as 0.3."
        raise DataError([Problem(field="replay", message=what, hint=hint)])
    return Chosen(
        part=made,
        facts=Replay(
            run_id=run.run_id,
            share=share,
            old=len(pool),
            replayed=len(drawn),
            new=new,
            gone_runs=(*lost, *gone),
        ),
        taken=[(one.run.prepared / "train", one.rows.row[at]) for one, at in taken if len(at)],
        learned_tokens=sum(int(one.rows.learned[at].sum()) for one, at in taken),
        longest=max((int(one.rows.longest[at].max()) for one, at in taken if len(at)), default=0),
    )


def _elsewhere(
    runs: list[Learned], rows: Rows, limit: int
) -> tuple[list[tuple[Learned, Any]], list[str]]:
    """Give the old rows that the data no longer has, each once, with the run that has its tokens.

    Returns:
        That, and the ids of the runs whose tokens are gone.
    """
    found, gone = [], []
    known, asked = np.unique(rows.content), np.unique(rows.place)
    for one in runs:
        there = one.rows
        usable = (
            one.trained
            & ~np.isin(there.content, known)
            & ~np.isin(there.place, asked)
            & (there.longest <= limit)
        )
        if not (one.run.prepared / "train" / DATA_FILE).is_file():
            gone += [one.run.run_id] if usable.any() else []
            continue
        at = np.flatnonzero(usable)
        at = at[np.sort(np.unique(there.content[at], return_index=True)[1])]
        known = np.union1d(known, there.content[at])
        # Of one question with two answers the newer run's counts: it was corrected there.
        asked = np.union1d(asked, there.place)
        found.append((one, at))
    return found, gone


def _draw(pool: Any, share: float, *, key: str) -> Any:
    """Draw a share of the pool, always the same for a key; one row at least, unless it is none."""
    count = min(len(pool), max(1, round(share * len(pool)))) if share else 0
    lots = [_lot(int(content), key) for content in pool]
    return pool[np.argsort(np.array(lots, "uint64"), kind="stable")[:count]]


def _lot(content: int, key: str) -> int:
    digest = hashlib.blake2b(content.to_bytes(8, "big"), key=key.encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def add_replayed(folder: Path, chosen: Chosen, *, first_row: int) -> None:
    """Write the tokens of old rows behind those of the data.

    Args:
        folder: the prepare stage's.
        chosen: the rows.
        first_row: their numbers begin here: they have no place in the data.

    Raises:
        DataError: an earlier run's tokens cannot be read.
    """
    if not chosen.taken:
        return
    train = folder / "train"
    train.mkdir(exist_ok=True)
    beside = train / f"{TEMPORARY_PREFIX}{os.urandom(6).hex()}"
    writer: TableWriter | None = None
    number = first_row
    try:
        if (train / DATA_FILE).exists():
            for batch in read_batches(train / DATA_FILE):
                writer = writer or TableWriter(beside, batch.schema)
                writer.write(batch)
        for source, places in chosen.taken:
            numbers = {int(place): number + n for n, place in enumerate(places.tolist())}
            number += len(numbers)
            for batch in _examples(source / DATA_FILE, places, numbers):
                writer = writer or TableWriter(beside, batch.schema)
                writer.write(batch)
    finally:
        if writer is not None:
            writer.close()
    os.rename(beside, train / DATA_FILE)
    write_data_set_facts(train)


def _examples(path: Path, places: Any, numbers: dict[int, int]) -> Any:
    """Give an earlier run's examples of some rows, under their new numbers."""
    import pyarrow as pa

    try:
        for batch in read_batches(path):
            row = to_numpy(batch.column("row"))
            mask = np.isin(row, places)
            if not mask.any():
                continue
            kept = batch.filter(to_arrow(mask, pa.bool_()))
            again = [numbers[int(one)] for one in row[mask]]
            columns = [kept.column("input_ids"), kept.column("labels"), to_arrow(again, pa.int64())]
            yield pa.record_batch(columns, schema=batch.schema)
    except (OSError, ValueError, KeyError) as error:
        run = RunFolder.containing(path)
        what = f"the rows that {run.run_id} learned cannot be read ({type(error).__name__})"
        hint = "Take its folder back from a backup, leave replay out, or write start_from: fresh."
        raise DataError([Problem(field="replay", message=what, hint=hint)]) from error
