"""Held-out loss, weighted by token: the same at any batch size.

Trainer's own is a mean of batch means, which changes with the batch: a smaller batch after an
out-of-memory would corrupt the choice of the best checkpoint.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runner.training.fit.memory import classify, let_go, plan_does_not_fit
from runner.training.fit.row_lengths import row_lengths
from runner.training.ranks.together import Ranks


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The measured loss and what it took."""

    loss: float
    """Nats per learned token."""
    tokens: int
    batch_size: int
    """The batch that fitted; start with it next time."""
    sums: tuple[float, ...] = ()
    """Each row's summed loss, in the order of the rows that were given."""
    counts: tuple[int, ...] = ()
    """Each row's learned tokens."""


def held_out_loss(
    model: Any,
    rows: Any,
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    *,
    batch_size: int,
    device: Any,
    check: Callable[[], None] = lambda: None,
    worst_only: bool = False,
) -> HeldOut:
    """Measure the loss of a model that has TRL's fused head.

    The batch is halved where it does not fit; the training plan is not touched. Longest rows come
    first, so that a batch that is too large fails at once.

    Args:
        model: the model, in whichever mode; it is left in that mode.
        rows: a data set with ``input_ids`` and ``labels``.
        collate: pads a list of rows.
        batch_size: rows at once, to begin with.
        device: where the model is.
        check: called between batches; may raise to end the measurement.
        worst_only: try the longest batch alone (the probe).
    """
    lengths = row_lengths(rows)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    sums, counts, done = [0.0] * len(order), [0] * len(order), 0
    was_training = model.training
    model.eval()
    try:
        while done < len(order):
            check()
            batch = [rows[i] for i in order[done : done + batch_size]]
            result = _try_batch(model, collate(batch), device, may_shrink=batch_size > 1)
            if result is None:
                let_go()
                batch_size = max(1, batch_size // 2)
                continue
            for i, total, learned in zip(order[done:], *result, strict=False):
                sums[i], counts[i] = total, learned
            done += len(batch)
            if worst_only:
                break
    finally:
        model.train(was_training)
    tokens = sum(counts)
    return HeldOut(
        loss=sum(sums) / max(1, tokens),
        tokens=tokens,
        batch_size=batch_size,
        sums=tuple(sums),
        counts=tuple(counts),
    )


def measured_together(rows: Any, measure: Callable[[Any], HeldOut], ranks: Ranks) -> HeldOut:
    """Measure rows, each rank some of them; every rank gets the loss of all.

    Args:
        rows: a data set.
        measure: measures the loss of some of them.
        ranks: those who share them.
    """
    if ranks.size == 1:
        return measure(rows)
    mine = ranks.share(row_lengths(rows))
    with ranks.told():
        found = measure(rows.select(mine)) if mine else None
    ranks.agree()
    sums, counts = [0.0] * len(rows), [0.0] * len(rows)
    if found is not None:
        for row, total, learned in zip(mine, found.sums, found.counts, strict=True):
            sums[row], counts[row] = total, learned
    sums, counts = ranks.sum_of(sums), ranks.sum_of(counts)
    return HeldOut(
        loss=sum(sums) / max(1, sum(counts)),
        tokens=int(sum(counts)),
        batch_size=found.batch_size if found else 1,
        sums=tuple(sums),
        counts=tuple(int(count) for count in counts),
    )


def on_device(inputs: dict[str, Any], device: Any) -> dict[str, Any]:
    """Move a batch; padding-free ones hold plain numbers too."""
    return {
        name: value.to(device) if hasattr(value, "to") else value for name, value in inputs.items()
    }


def _try_batch(
    model: Any, inputs: dict[str, Any], device: Any, *, may_shrink: bool
) -> tuple[list[float], list[int]] | None:
    """Sum each row's loss over its learned tokens; None: it did not fit and may be smaller."""
    import torch

    with contextlib.suppress(_DoesNotFit):
        try:
            with torch.inference_mode():
                found = model(**on_device(inputs, device), use_cache=False, fused_lm_head=True)
                losses = -found.log_probs.double().sum(dim=-1)
                return losses.tolist(), found.label_mask.sum(dim=-1).tolist()
        except Exception as error:
            fits_not = plan_does_not_fit(classify(error), on_gpu=torch.device(device).type != "cpu")
            if not (may_shrink and fits_not):
                raise
            traceback.clear_frames(error.__traceback__)
        raise _DoesNotFit
    return None


class _DoesNotFit(Exception):  # noqa: N818  (a signal within this file)
    pass
