"""Loss per row of the base model, measured on a sample of the learned rows while it is loaded."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from runner.contract.findings import DataFinding, Place
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.stage_io import PrepareResult, read_message
from runner.errors import DamagedError
from runner.files.durable import write_json
from runner.spec.spec import JobSpec
from runner.training.checks.at_prepare import wishes
from runner.training.checks.row_loss import NAMES, RowLoss, choose, judge
from runner.training.checks.thresholds import LOSS_ROWS, LOSS_TOKENS
from runner.training.data.token_table import TRAIN, read_batches, read_row_table
from runner.training.fit.heldout import HeldOut
from runner.training.fit.memory import classify, let_go, plan_does_not_fit

_TOKENS_ON_CPU = 4_000
_SHARE_ON_CPU = 1 / 4  # of the held-out tokens, which are read twice: an eighth more time
_LEAST_ON_CPU = 500  # where little or nothing is held out
KEPT = "row_loss.json"
"""In the evaluate stage's folder: every measured row's place and loss, the highest first."""

Measure = Callable[[Any], HeldOut]
"""Measures the base model's loss on a data set."""


def row_losses(
    run: RunFolder,
    spec: JobSpec,
    measure: Measure,
    *,
    on_gpu: bool,
    folder: Path | None = None,
) -> tuple[DataFinding, ...]:
    """Measure the base model on some learned rows, write what it was, and say what it means.

    A courtesy: where the rows cannot be read again or do not fit into memory, nothing is said.
    """
    wanted = wishes(spec)
    if all(wanted.get(name) == "ignore" for name in NAMES):
        return ()
    sample = _sample(run, on_gpu=on_gpu)
    if sample is None:
        return ()
    examples, places = sample
    try:
        found = measure(examples)
    except Exception as error:
        if not plan_does_not_fit(classify(error), on_gpu=on_gpu):
            raise
        traceback.clear_frames(error.__traceback__)
        found = None
    if found is None:
        let_go()  # only here: inside an except the error still holds the tensors
        return ()
    measured = _by_row(examples["row"], found, places)
    rows = sorted(measured, key=lambda one: -one.loss)
    write_json(
        (folder or run.evaluation) / KEPT,
        [{**one.place.model_dump(), "loss": round(one.loss, 4)} for one in rows],
    )
    return tuple(judge(measured, wanted))


def _most_tokens(prepared: PrepareResult, *, on_gpu: bool) -> int:
    if on_gpu:
        return int(LOSS_TOKENS.value)
    return int(min(_TOKENS_ON_CPU, max(_LEAST_ON_CPU, _SHARE_ON_CPU * prepared.eval_tokens)))


def _sample(run: RunFolder, *, on_gpu: bool) -> tuple[Any, dict[int, Place]] | None:
    """Choose rows; give their examples, and where each stands. None: an older runner's data."""
    from datasets import load_from_disk

    table = run.prepared / "rows.arrow"
    if not table.is_file() or not (run.prepared / "train" / "state.json").is_file():
        return None
    try:
        prepared = read_message(StageFolder(run.prepared).result, PrepareResult)
    except (OSError, DamagedError):
        return None
    rows, part = read_row_table(table), _parts(table)
    learned = np.flatnonzero(part == TRAIN)
    chosen = learned[
        choose(
            rows.row[learned],
            rows.tokens[learned],
            most_rows=int(LOSS_ROWS.value),
            most_tokens=_most_tokens(prepared, on_gpu=on_gpu),
        )
    ]
    if not len(chosen):
        return None
    places = {}
    for at in chosen:
        file = prepared.data[int(rows.file[at])].path
        unit = "row" if file in prepared.row_numbered else "line"
        places[int(rows.row[at])] = Place(file=file, line=int(rows.line[at]), unit=unit)
    train = load_from_disk(str(run.prepared / "train"))
    numbers = train.data.column("row").to_numpy()
    return train.select(np.flatnonzero(np.isin(numbers, list(places)))), places


def _parts(table: Path) -> np.ndarray:
    """Read what became of each row."""
    found = [batch.column("part").to_numpy() for batch in read_batches(table)]
    return np.concatenate([np.zeros(0, "int8"), *found])


def _by_row(numbers: Any, found: HeldOut, places: dict[int, Place]) -> list[RowLoss]:
    """Put the examples of one row together."""
    sums: dict[int, float] = {}
    counts: dict[int, int] = {}
    for number, total, tokens in zip(numbers, found.sums, found.counts, strict=True):
        sums[number] = sums.get(number, 0.0) + total
        counts[number] = counts.get(number, 0) + tokens
    return [
        RowLoss(place=places[number], loss=total / counts[number])
        for number, total in sums.items()
        if counts[number] and np.isfinite(total)
    ]
