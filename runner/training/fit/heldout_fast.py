"""Held-out loss on the fast path: rows side by side without padding, nothing kept, no gradient.

The sums are those of `heldout.py`: each row's learned tokens, whatever the passes are.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import torch

from runner.forecast.passes import measured_at_once
from runner.training.fit.heldout import HeldOut
from runner.training.fit.memory import classify, let_go, plan_does_not_fit
from runner.training.fit.row_lengths import row_lengths
from runner.training.kernels.fast_model import FastModel
from runner.training.kernels.rows import IGNORED, Row, divide


def fast_held_out_loss(
    model: FastModel,
    rows: Any,
    *,
    check: Callable[[], None] = lambda: None,
    worst_only: bool = False,
) -> HeldOut:
    """Measure the loss of rows; passes are halved where they do not fit.

    Args:
        model: recognised and checked; its adapter's weights are taken as they are now.
        rows: a data set with ``input_ids`` and ``labels``.
        check: called between passes; may raise to end the measurement.
        worst_only: try the largest pass alone (the probe).
    """
    model.parts.adapter.refresh()
    with model.parts.exact():
        return measure_rows(model, rows, check=check, worst_only=worst_only)


def base_loss(model: FastModel, rows: Any, *, check: Callable[[], None]) -> HeldOut:
    """Measure rows as the base has them; whoever comes next takes the adapter's weights anew."""
    model.parts.adapter.silence()
    with model.parts.exact():
        return measure_rows(model, rows, check=check)


def measure_rows(
    model: FastModel,
    rows: Any,
    *,
    check: Callable[[], None] = lambda: None,
    worst_only: bool = False,
) -> HeldOut:
    """Measure with the adapter's copies as they are."""
    lengths = row_lengths(rows)
    sums, counts = [0.0] * len(lengths), [0] * len(lengths)
    most, left = measured_at_once(model.sizes, model.passes), list(range(len(lengths)))
    while left:
        passes = [[left[i] for i in one] for one in divide([lengths[i] for i in left], most)]
        passes.sort(key=lambda one: -sum(lengths[i] for i in one))
        done: list[int] = []
        for chosen in passes[:1] if worst_only else passes:
            check()
            batch = [_row(rows, i) for i in chosen]
            found = _try(model, batch, may_shrink=len(chosen) > 1)
            if found is None:
                let_go()  # only here: inside an except the error still holds the tensors
                most = max(lengths[i] for i in chosen) if len(chosen) == 2 else most // 2
                break
            for i, total, (_, labels) in zip(chosen, found, batch, strict=True):
                sums[i], counts[i] = total, int((labels[1:] != IGNORED).sum())
            done += chosen
        else:
            break
        left = sorted(set(left) - set(done))
    tokens = sum(counts)
    return HeldOut(
        loss=sum(sums) / max(1, tokens),
        tokens=tokens,
        batch_size=1,
        sums=tuple(sums),
        counts=tuple(counts),
    )


def _row(rows: Any, number: int) -> Row:
    row = rows[number]
    return torch.tensor(row["input_ids"]), torch.tensor(row["labels"])


def _try(model: FastModel, batch: list[Row], *, may_shrink: bool) -> list[float] | None:
    """Sum each row's loss; None: it did not fit and may be smaller."""
    try:
        found: list[float] = model.measure(batch).tolist()
    except Exception as error:
        fits_not = plan_does_not_fit(classify(error), on_gpu=model.device.type != "cpu")
        if not (may_shrink and fits_not):
            raise
        traceback.clear_frames(error.__traceback__)
        return None
    return found
