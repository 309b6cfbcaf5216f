"""Attempt: what one process of training works with, and the plan that comes after its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner.contract.batch import BatchPlan, smaller
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.stage_io import TrainPlan
from runner.spec.spec import JobSpec


@dataclass(kw_only=True)
class Attempt:
    """Everything that its steps share."""

    run: RunFolder
    """Where the checkpoint lies that it goes on from; it writes nothing there."""
    folder: StageFolder
    """All that this process writes, its checkpoints among it."""
    spec: JobSpec
    plan: TrainPlan
    batch_plan: BatchPlan
    """The plan in force; the probe may make it smaller."""
    machine: Any
    meter: Any
    stop: Any
    progress: Any
    conduct: Any
    trainer: Any
    ranks: Any
    notes: list[str]
    left_fast_path: bool = False
    """The fast path failed in the middle of it."""


def smaller_plan(attempt: Attempt) -> BatchPlan | None:
    """Give the plan to try where the present one does not fit; None: there is none."""
    # On a CPU the activations are in the host's memory already. Packed rows are all as long as the
    # longest, and are never cut apart by length.
    fast = attempt.trainer.fast
    if fast is not None:
        return fast.smaller(attempt.batch_plan, may_offload=attempt.machine.on_gpu)
    lengths = attempt.conduct.lengths
    if attempt.spec.training.packing:
        lengths = [max(lengths)]
    return smaller(attempt.batch_plan, may_offload=attempt.machine.on_gpu, lengths=lengths)


def next_plan(attempt: Attempt) -> BatchPlan | None:
    """Choose what the next attempt runs: an evaluation that failed does not speak against a plan.

    It is tried again at the start of the next attempt, where nothing else needs memory, and given
    up if it fails there: so this never goes round in circles.
    """
    return attempt.batch_plan if attempt.progress.in_evaluation else smaller_plan(attempt)
