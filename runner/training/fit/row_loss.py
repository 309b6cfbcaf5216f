"""Loss per row of the base model, measured once a run, before its first step, on a sample of rows.

Training is as if it had not been: the adapter is switched off and on again, nothing is learned, and
every random state is put back. Whatever goes wrong is a line in the log.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from runner.contract.findings import DataFinding, Place
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.row_losses import (
    NAME,
    MeasuredRow,
    RowLosses,
    losses_begun,
    read_row_losses,
    write_row_losses,
)
from runner.contract.stage_io import PrepareResult, read_message
from runner.spec.spec import JobSpec
from runner.training.checks.at_prepare import wishes
from runner.training.checks.row_loss import NAMES, RowLoss, choose, judge
from runner.training.checks.thresholds import LOSS_ROWS, LOSS_SECONDS, LOSS_TOKENS
from runner.training.data.token_table import TRAIN, read_batches, read_row_table
from runner.training.fit.heldout import HeldOut
from runner.training.fit.memory import let_go
from runner.training.fit.stop import Interrupted

_TOKENS_ON_CPU = 4_000
_SHARE_ON_CPU = 1 / 4  # of the held-out tokens, which are read at least twice: an eighth more time
_LEAST_ON_CPU = 500  # where little or nothing is held out
_AT_ONCE = 16  # rows between looks at the clock

Measure = Callable[[Any], HeldOut]
"""Measures the base model's loss on a data set."""


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """The rows to measure."""

    examples: Any
    """A data set; a row may have several, one for each answer."""
    numbers: np.ndarray
    """Each example's row."""
    order: tuple[int, ...]
    """The rows, in an order that has nothing to do with theirs: wherever it ends, it was fair."""
    places: dict[int, Place]
    learned_rows: int


def row_losses(
    run: RunFolder, folder: StageFolder, spec: JobSpec, measure: Measure, *, on_gpu: bool
) -> tuple[DataFinding, ...]:
    """Measure the base model on some learned rows, write what it was, and say what it means.

    Once a run: later attempts say what the first one found, and one that was killed in here is not
    followed by another that tries it.

    Raises:
        Interrupted: the daemon asked the attempt to stop; the next one measures.
    """
    wanted = wishes(spec)
    if all(wanted.get(name) == "ignore" for name in NAMES):
        return ()
    try:
        if losses_begun(run):
            return read_row_losses(run).findings
        sample = _sample(run, on_gpu=on_gpu)
        if sample is None:
            return ()
        write_row_losses(folder.root, RowLosses())
        began = time.monotonic()
        measured = _measure(sample, measure, until=began + LOSS_SECONDS.value)
        found = tuple(judge(measured, wanted, learned=sample.learned_rows))
        rows = [
            MeasuredRow(**one.place.model_dump(), row=one.row, loss=round(one.loss, 4))
            for one in sorted(measured, key=lambda one: -one.loss)
        ]
        losses = RowLosses(learned_rows=sample.learned_rows, rows=tuple(rows), findings=found)
        write_row_losses(folder.root, losses)
        print(
            f"Loss of the base model on {len(rows)} of {sample.learned_rows} rows: measured in "
            f"{time.monotonic() - began:.1f} s.",
            flush=True,
        )
    except Interrupted:
        (folder.root / NAME).unlink(missing_ok=True)
        raise
    except Exception as error:  # a courtesy, which never harms the run
        traceback.print_tb(error.__traceback__)
        traceback.clear_frames(error.__traceback__)
        print(
            f"The base model's loss on single rows is left out ({type(error).__name__}); training "
            "goes on.",
            flush=True,
        )
        found = ()
    # What the measuring held is the training's now; a cycle could keep a whole row's tensors until
    # some later step. Only here: inside an except the error still holds them.
    let_go()
    return found


def _measure(sample: _Sample, measure: Measure, *, until: float) -> list[RowLoss]:
    """Measure a few rows at a time, until the time is up; the first ones in any case."""
    found: list[RowLoss] = []
    for start in range(0, len(sample.order), _AT_ONCE):
        chosen = np.isin(sample.numbers, sample.order[start : start + _AT_ONCE])
        some = sample.examples.select(np.flatnonzero(chosen))
        found += _by_row(sample.numbers[chosen].tolist(), measure(some), sample.places)
        if time.monotonic() >= until:
            break
    return found


def _most_tokens(prepared: PrepareResult, *, on_gpu: bool) -> int:
    if on_gpu:
        return int(LOSS_TOKENS.value)
    return int(min(_TOKENS_ON_CPU, max(_LEAST_ON_CPU, _SHARE_ON_CPU * prepared.eval_tokens)))


def _sample(run: RunFolder, *, on_gpu: bool) -> _Sample | None:
    """Choose rows. None: the data was prepared by an older runner, or there is nothing to learn."""
    from datasets import load_from_disk

    table = run.prepared / "rows.arrow"
    if not table.is_file() or not (run.prepared / "train" / "state.json").is_file():
        return None
    prepared = read_message(StageFolder(run.prepared).result, PrepareResult)
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
    here = np.flatnonzero(np.isin(numbers, list(places)))
    known = ("input_ids", "labels")
    train = train.remove_columns([name for name in train.column_names if name not in known])
    return _Sample(
        examples=train.select(here),
        numbers=numbers[here],
        order=tuple(places),
        places=places,
        learned_rows=len(learned),
    )


def _parts(table: Any) -> np.ndarray:
    """Read what became of each row."""
    found = [batch.column("part").to_numpy() for batch in read_batches(table)]
    return np.concatenate([np.zeros(0, "int8"), *found])


def _by_row(numbers: list[int], found: HeldOut, places: dict[int, Place]) -> list[RowLoss]:
    """Put the examples of one row together."""
    sums: dict[int, float] = {}
    counts: dict[int, int] = {}
    for number, total, tokens in zip(numbers, found.sums, found.counts, strict=True):
        sums[number] = sums.get(number, 0.0) + total
        counts[number] = counts.get(number, 0) + tokens
    return [
        RowLoss(place=places[number], row=number, loss=total / counts[number])
        for number, total in sums.items()
        if counts[number] and np.isfinite(total)
    ]


@contextlib.contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """Switch a PEFT model's adapter off; afterwards the same weights are trained as before."""
    trained = [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for weight, was_trained in trained:
            weight.requires_grad_(was_trained)
