"""Turns an effective batch into a batch plan, and a plan that did not fit into a smaller one.

The effective batch (examples per optimizer step) never changes within a run: every plan of a run
is a way to cut the same number.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, PositiveInt


class BatchPlan(BaseModel):
    """How an effective batch is cut into micro-batches."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    per_device_batch_size: PositiveInt
    """Examples in one forward and backward pass."""
    gradient_accumulation_steps: PositiveInt
    """Passes per optimizer step."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    activation_offloading: bool = False
    """Keep what activation checkpointing keeps in host memory instead of on the card."""

    @property
    def effective_batch_size(self) -> int:
        """Examples per optimizer step."""
        return self.per_device_batch_size * self.gradient_accumulation_steps

    def __str__(self) -> str:
        text = f"{self.per_device_batch_size} × {self.gradient_accumulation_steps}"
        if self.activation_offloading:
            return text + ", activation checkpointing and offloading"
        return text + (", activation checkpointing" if self.activation_checkpointing else "")


def largest_divisor_at_most(number: int, limit: int) -> int:
    """Give the largest divisor of ``number`` that is at most ``limit`` (at least 1)."""
    return max(d for d in range(1, max(1, min(number, limit)) + 1) if number % d == 0)


def smaller(plan: BatchPlan, *, may_offload: bool = True) -> BatchPlan | None:
    """Give the next plan to try when ``plan`` did not fit; None when there is none.

    The per-device batch goes to the largest divisor of the effective batch that is at most half of
    it. At batch 1, activation checkpointing comes next, then activation offloading, where there is
    host memory beside the card's to offload to.
    """
    effective = plan.effective_batch_size
    if plan.per_device_batch_size > 1:
        size = largest_divisor_at_most(effective, plan.per_device_batch_size // 2)
        return plan.model_copy(
            update={
                "per_device_batch_size": size,
                "gradient_accumulation_steps": effective // size,
            }
        )
    if not plan.activation_checkpointing:
        return plan.model_copy(update={"activation_checkpointing": True})
    if may_offload and not plan.activation_offloading:
        return plan.model_copy(update={"activation_offloading": True})
    return None


def describe_change(before: BatchPlan, after: BatchPlan) -> str:
    """Say in one line how a plan was made smaller, as answers, status, log and record show it."""
    same = f"same effective batch {after.effective_batch_size}"
    if after.per_device_batch_size != before.per_device_batch_size:
        sizes = [
            f"{p.per_device_batch_size} × {p.gradient_accumulation_steps}" for p in (before, after)
        ]
        more = "" if _switches(after) == _switches(before) else f" ({_switches(after)} on)"
        half = 2 * after.per_device_batch_size == before.per_device_batch_size
        how = "halved" if half else "made smaller"
        return f"{how}: {sizes[0]} → {sizes[1]}{more}, {same}"
    size = f"{after.per_device_batch_size} × {after.gradient_accumulation_steps}"
    return f"{_switches(after)} switched on at {size}, {same}"


def _switches(plan: BatchPlan) -> str:
    if plan.activation_offloading:
        return "activation offloading"
    return "activation checkpointing" if plan.activation_checkpointing else ""
