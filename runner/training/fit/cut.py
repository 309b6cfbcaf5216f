"""Trainer's step: a micro-batch is cut into passes that hold no more tokens than the plan allows.

A long row among short ones pads them all to its own length: fifteen rows of 500 tokens beside one
of 8,192 are 131,072 tokens instead of 15,692. Rows are cut into passes by length instead, each
padded to its own longest. The loss of a step is a sum over tokens divided by their number in the
whole step, which Trainer counts beforehand, so a cut changes gradients by no more than rounding.

Between two steps the card waits for the host, so the host does little there: the next step's rows
are read and padded while the card works on this one, and what Trainer would look up by walking
through all modules is kept in a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from trl import SFTTrainer

from runner.contract.batch import BatchPlan, cut_by_tokens, worst_pass
from runner.training.fit.fast_path import FastPath
from runner.training.fit.schedule import scheduler
from runner.training.kernels.rows import worst
from runner.training.ranks.together import Ranks, Say, flat_of

LENGTHS = "lengths"
"""What the collator calls the rows' lengths; no model gets to see it."""
PACKED = "packed"
"""Likewise the lengths of all rows that lie in packed sequences."""
ROWS = "rows"
"""Likewise the rows themselves, where several ranks share them."""
LAST = "last"
"""Of a rank's share: whether this is the step's last micro-batch."""


@dataclass(frozen=True)
class Rows:
    """A micro-batch's rows; no list, because accelerate would walk through their tokens."""

    rows: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class _Feed:
    """Where a step's micro-batches come from."""

    batches: Any
    """The epoch's iterator."""
    count: int
    device: Any


class CuttingTrainer(SFTTrainer):
    """TRL's trainer; its step and its schedule overridden as Trainer means them to be."""

    batch_plan: BatchPlan
    """In force; whoever builds or changes it sets it."""
    fast: FastPath | None = None
    """None: the plain path."""
    ranks: Ranks
    """Who else trains; whoever builds the trainer sets it, and the two below where others do."""
    base_shared_by: int = 1
    """Ranks that keep a share of the base each; 1: all of it is on this card."""
    due: Callable[[], Iterable[Say]]
    """What the clock of the first rank says."""
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    """Makes a micro-batch of rows."""
    agreed: frozenset[Say] = frozenset()
    """What was said in the latest step."""
    lr_scheduler: Any
    _loss: Any = 0.0
    """This rank's share of the step's, so far."""
    _feed: _Feed | None = None
    _ahead: tuple[Any, Any] | None = None
    """The next step's micro-batches and their learned tokens; None: not read yet."""

    def know_trained(self) -> None:
        """Find the trained weights once: each walk through 8B's modules takes 6 ms or more."""
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]

        def zero_grad(set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002  (torch's own)
            _forget_grads(trained, set_to_none=set_to_none)

        self._trained = trained
        self.model.zero_grad = zero_grad  # frozen weights never have gradients

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:  # noqa: ARG002
        """Count nothing: Trainer counts 8B's weights anew for it after each micro-batch, 60 ms."""
        return 0

    def _clip_grad_norm(self, model: Any) -> Any:  # noqa: ARG002
        """Clip as Trainer does, without looking for the weights that are trained."""
        return self.accelerator.clip_grad_norm_(self._trained, self.args.max_grad_norm)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: Any
    ) -> tuple[Any, Any]:
        """Give a step's micro-batches: those read ahead, if they are of this epoch."""
        ahead, feed = self._ahead, self._feed
        self._ahead = None
        self._feed = _Feed(batches=epoch_iterator, count=num_batches, device=device)
        if ahead is not None and feed is not None and feed.batches is epoch_iterator:
            return ahead
        return self._read(self._feed)

    def _read(self, feed: _Feed) -> tuple[Any, Any]:
        found: tuple[Any, Any] = super().get_batch_samples(feed.batches, feed.count, feed.device)
        return (self._share(found[0]), found[1]) if self.ranks.size > 1 else found

    def _share(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Put this rank's rows of a step into as many micro-batches; the last may be empty."""
        rows = [row for batch in batches for row in batch[ROWS].rows]
        mine = [rows[i] for i in self.ranks.share([len(row["input_ids"]) for row in rows])]
        size = int(self.args.per_device_train_batch_size)
        chunks = [mine[i * size : (i + 1) * size] for i in range(len(batches))]
        shares = [self.collate(chunk) if chunk else {} for chunk in chunks]
        return [{**share, LAST: i == len(shares) - 1} for i, share in enumerate(shares)]

    def _read_ahead(self) -> None:
        """Read the next step's micro-batches, once a step; the epoch may be at its end."""
        if self._ahead is None and self._feed is not None:
            self._ahead = self._read(self._feed)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the learning rate follow our schedule: the library's begins with a lost step."""
        if self.lr_scheduler is None:
            self.lr_scheduler = scheduler(
                self.optimizer if optimizer is None else optimizer,
                total_steps=num_training_steps,
                warmup=int(self.args.warmup_steps),
                shape=str(self.args.lr_scheduler_type.value),
            )
            self._created_lr_scheduler = True  # Trainer forgets it before it trains again
        return self.lr_scheduler

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Any:
        """Go forward and backward over a micro-batch, pass by pass; give the sum of losses.

        The card is still at it when this returns, so there is time to read what comes next.
        """
        if LAST in inputs:
            return self._with_others(model, inputs, num_items_in_batch)
        loss = self._trained_on(model, inputs, num_items_in_batch)
        self._read_ahead()
        return loss

    def _with_others(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        """Train on this rank's share; after the step's last micro-batch, add the others' to it.

        Before any gradient goes to another card, all have told that they are through: one that
        has failed never keeps the others waiting.
        """
        last, nothing = inputs.pop(LAST), torch.zeros((), device=self.args.device)
        with self.ranks.told(), self.ranks.own_draws():
            found = self._trained_on(model, inputs, num_items_in_batch) if inputs else nothing
        self._read_ahead()
        self._loss = self._loss + found
        if not last:
            return nothing
        loss, self._loss = self._loss, 0.0
        with self.ranks.told():  # its memory is taken while the others can still be told
            flat = flat_of(self._trained, loss)
        gap = [Say.WITHOUT_GRADIENT] if any(w.grad is None for w in self._trained) else []
        self.agreed = self.ranks.agree([*self.due(), *gap])
        if Say.WITHOUT_GRADIENT in self.agreed:
            self.ranks.fill_gaps(self._trained)
            flat = flat_of(self._trained, loss)
        return self.ranks.sum_up(self._trained, flat)

    def _trained_on(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        lengths, packed = inputs.pop(LENGTHS), inputs.pop(PACKED, None)
        if self.fast is not None:
            rows = _rows(inputs, lengths, packed)
            return self.fast.train_on(rows, num_items_in_batch)
        passes = cut_by_tokens(lengths, self.batch_plan.tokens_per_pass)
        if len(passes) == 1:
            return super().training_step(model, inputs, num_items_in_batch)
        losses = [
            super(CuttingTrainer, self).training_step(
                model, _take(inputs, rows, lengths), num_items_in_batch
            )
            for rows in passes
        ]
        return sum(losses)

    def worst_rows(self, lengths: list[int]) -> list[int]:
        """Choose the rows of a pass as large as any of the run."""
        if self.fast is None:
            return worst_pass(lengths, self.batch_plan)
        size = int(self.args.per_device_train_batch_size)
        return worst(lengths, self.fast.model.passes.most_tokens, size)


def _forget_grads(trained: Sequence[Any], *, set_to_none: bool) -> None:
    for weight in trained:
        if set_to_none or weight.grad is None:
            weight.grad = None
        else:
            weight.grad.zero_()


def _rows(inputs: dict[str, Any], lengths: list[int], packed: list[int] | None) -> list[Any]:
    """Take a batch apart into rows without padding; packed ones lie in one line."""
    ids, labels = (inputs[name].cpu() for name in ("input_ids", "labels"))
    if packed is not None:
        return list(zip(ids.flatten().split(packed), labels.flatten().split(packed), strict=True))
    return [(ids[i, :n], labels[i, :n]) for i, n in enumerate(lengths)]


def _take(inputs: dict[str, Any], rows: list[int], lengths: list[int]) -> dict[str, Any]:
    """Take some rows of a padded batch, and no more padding than they need."""
    longest = max(lengths[row] for row in rows)
    return {name: values[rows, :longest] for name, values in inputs.items()}
