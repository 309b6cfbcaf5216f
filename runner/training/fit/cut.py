"""Passes: a micro-batch is cut so that no pass holds more tokens than the batch plan allows.

A long row among short ones pads them all to its own length: fifteen rows of 500 tokens beside one
of 8,192 are 131,072 tokens instead of 15,692. Rows are cut into passes by length instead, each
padded to its own longest. The loss of a step is a sum over tokens divided by their number in the
whole step, which Trainer counts beforehand, so a cut changes gradients by no more than rounding.
"""

from __future__ import annotations

from typing import Any

from trl import SFTTrainer

from runner.contract.batch import BatchPlan, cut_by_tokens, worst_pass
from runner.training.fit.fast_path import FastPath
from runner.training.fit.schedule import scheduler
from runner.training.kernels.rows import worst

LENGTHS = "lengths"
"""What the collator calls the rows' lengths; no model gets to see it."""
PACKED = "packed"
"""Likewise the lengths of all rows that lie in packed sequences."""


class CuttingTrainer(SFTTrainer):
    """TRL's trainer; its step and its schedule overridden as Trainer means them to be."""

    batch_plan: BatchPlan
    """In force; whoever builds or changes it sets it."""
    fast: FastPath | None = None
    """None: the plain path."""
    lr_scheduler: Any

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
        """Go forward and backward over a micro-batch, pass by pass; give the sum of losses."""
        lengths, packed = inputs.pop(LENGTHS), inputs.pop(PACKED, None)
        if self.fast is not None:
            rows = _rows(inputs, lengths, packed)
            return self.fast.model.train_on(rows, num_items_in_batch)
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
