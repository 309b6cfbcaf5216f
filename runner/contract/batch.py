"""Batch plan: how an effective batch is cut, and which smaller plan follows one that did not fit.

The effective batch (examples per optimizer step) never changes within a run: every plan of a run
is a way to cut the same number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from runner.language.speaker import ENGLISH, Speaker

FEW_TOKENS = 1_024
"""No pass of the fast path need be smaller: the inputs of 8B's layers take 256 MiB then."""


class BatchPlan(BaseModel):
    """How an effective batch is cut into micro-batches."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    per_device_batch_size: PositiveInt
    """Examples in one forward and backward pass."""
    gradient_accumulation_steps: PositiveInt
    """Passes per optimizer step."""
    tokens_per_pass: PositiveInt | None = None
    """A pass over so many tokens (rows × the longest, padding included) is cut into several, of
    rows that are about as long as each other; a row that is longer by itself goes alone."""
    layers_kept: NonNegativeInt | None = None
    """On the fast path: ``tokens_per_pass`` counts no padding, and so many layers keep everything
    for the way back, the others their input alone. None: the plain path, or nothing was forecast
    and the run chooses both by itself."""
    layers_unpacked: NonNegativeInt = 0
    """On the fast path, of a base in 4 bits: so many layers' weights stay unpacked in 16 bits from
    one pass to the next."""
    embedding_on_host: bool = False
    """On the fast path: the table of the words that go in lies in host memory, and the rows of a
    pass are fetched from there. Only where the words that come out have a table of their own."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    activation_offloading: bool = False
    """Keep what activation checkpointing keeps in host memory instead of on the card; on the fast
    path that of rows alone which the card does not hold."""

    @property
    def effective_batch_size(self) -> int:
        """Examples per optimizer step."""
        return self.per_device_batch_size * self.gradient_accumulation_steps

    @property
    def cut(self) -> str:
        """How the effective batch is cut, in words."""
        return cut_in(self)

    def __str__(self) -> str:
        return plan_in(self)


def largest_divisor_at_most(number: int, limit: int) -> int:
    """Give the largest divisor of ``number`` that is at most ``limit`` (at least 1)."""
    limit = max(1, min(number, limit))
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return max(d for one in small for d in (one, number // one) if d <= limit)


def cut_by_tokens(lengths: Sequence[int], limit: int | None) -> list[list[int]]:
    """Cut a micro-batch into passes that hold at most ``limit`` tokens each, padding included.

    As few passes as can be, and of such cuts the one that pads least. Gives the rows' indices, pass
    by pass, the longest rows first; without a limit one pass in the order given. The loss is a sum
    over tokens, so the cut changes no number but by rounding.
    """
    if limit is None:
        return [list(range(len(lengths)))]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    # Rows that share a pass stand together in the order of lengths. `best` holds, for the first so
    # many of them: the passes needed, their tokens, and where the last one of them starts.
    best = [(0, 0, 0)]
    for end in range(1, len(order) + 1):
        found = []
        for start in range(end - 1, -1, -1):
            tokens = (end - start) * lengths[order[start]]
            if tokens > limit and start < end - 1:
                break  # a row more, and longer ones: never fewer tokens
            found.append((best[start][0] + 1, best[start][1] + tokens, start))
        best.append(min(found))
    passes: list[list[int]] = []
    end = len(order)
    while end:
        start = best[end][2]
        passes.insert(0, order[start:end])
        end = start
    return passes


def worst_pass(lengths: Sequence[int], plan: BatchPlan) -> list[int]:
    """Find the rows that make the largest pass (tokens, padding included) a plan can meet.

    Gives their indices, the longest first; ``lengths`` may be in any order.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    most, size = plan.per_device_batch_size, 0
    if plan.tokens_per_pass is None:
        return order[:most]
    worst: list[int] = []
    for start, index in enumerate(order):
        if start and lengths[index] == lengths[order[start - 1]]:
            continue  # no larger than the pass that began one row earlier
        rows = min(most, max(1, plan.tokens_per_pass // lengths[index]), len(order) - start)
        if rows * lengths[index] > size:
            worst, size = order[start : start + rows], rows * lengths[index]
        if most * lengths[index] <= size:
            break  # shorter rows cannot fill more
    return worst


def smaller(
    plan: BatchPlan,
    *,
    may_offload: bool = True,
    may_move_embedding: bool = False,
    lengths: Sequence[int] = (),
) -> BatchPlan | None:
    """Give the next plan to try when ``plan`` did not fit; None when there is none.

    The per-device batch goes to the largest divisor of the effective batch that is at most half of
    it. Where few rows are much longer than the others (``lengths``: of all rows), the batch stays
    and only passes that hold more tokens than that half of the longest would are cut: most steps
    stay as quick as they were. A limit of tokens is halved in its turn, down to the longest row. At
    batch 1, or where each row is alone, activation checkpointing comes next, then activation
    offloading, where there is host memory beside the card's to offload to.

    On the fast path weights that stay unpacked go first. Then passes are halved down to the longest
    row, then the layers that keep everything down to none; then the table of the words that go in
    moves to the host (``may_move_embedding``: it can), and then the host keeps for the layers of
    the longest rows, and of shorter ones.
    """
    effective, size = plan.effective_batch_size, plan.per_device_batch_size
    limit, longest = plan.tokens_per_pass, max(lengths, default=1)
    if plan.layers_unpacked:
        return plan.model_copy(update={"layers_unpacked": 0})
    if limit is not None and limit > longest:
        return plan.model_copy(update={"tokens_per_pass": max(longest, limit // 2)})
    if plan.layers_kept:
        return plan.model_copy(update={"layers_kept": plan.layers_kept // 2})
    if plan.layers_kept == 0 and may_move_embedding and not plan.embedding_on_host:
        return plan.model_copy(update={"embedding_on_host": True})
    if plan.layers_kept == 0:
        fewer = max(1, (limit or longest) // 2)
        if not may_offload or (plan.activation_offloading and fewer < FEW_TOKENS):
            return None
        return plan.model_copy(update={"activation_offloading": True, "tokens_per_pass": fewer})
    if limit is None and size > 1:
        half = largest_divisor_at_most(effective, size // 2)
        if lengths and size * sorted(lengths)[len(lengths) // 2] <= half * longest:
            return plan.model_copy(update={"tokens_per_pass": half * longest})
        return plan.model_copy(
            update={
                "per_device_batch_size": half,
                "gradient_accumulation_steps": effective // half,
            }
        )
    if not plan.activation_checkpointing:
        return plan.model_copy(update={"activation_checkpointing": True})
    if may_offload and not plan.activation_offloading:
        return plan.model_copy(update={"activation_offloading": True})
    return None


def describe_change(before: BatchPlan, after: BatchPlan, speak: Speaker = ENGLISH) -> str:
    """Say in one line how a plan was made smaller, as answers, status, log and record show it."""
    same = speak("batch_same", size=after.effective_batch_size)
    if (
        after.layers_kept is not None
        and after.activation_offloading != before.activation_offloading
    ):
        return f"{plan_in(after, speak)}, {same}"
    if after.layers_kept is not None and after.embedding_on_host != before.embedding_on_host:
        return f"{plan_in(after, speak)}, {same}"
    if before.layers_kept is not None and after.layers_kept is None:
        return speak("batch_plain_path", plan=plan_in(after, speak), same=same)
    if before.layers_unpacked and not after.layers_unpacked:
        return f"{speak('batch_none_unpacked')}: {cut_in(after, speak)}, {same}"
    if after.layers_unpacked != before.layers_unpacked:
        return f"{cut_in(after, speak)}, {same}"
    switches = _switches(after, speak)
    more = "" if switches == _switches(before, speak) else speak("batch_on", what=switches)
    if after.per_device_batch_size != before.per_device_batch_size:
        sizes = [
            f"{p.per_device_batch_size} × {p.gradient_accumulation_steps}" for p in (before, after)
        ]
        half = 2 * after.per_device_batch_size == before.per_device_batch_size
        how = speak("batch_halved" if half else "batch_smaller")
        return f"{how}: {sizes[0]} → {sizes[1]}{more}, {same}"
    if after.tokens_per_pass != before.tokens_per_pass:
        if before.tokens_per_pass is None:
            return f"{speak('batch_halved_longest')}: {cut_in(after, speak)}{more}, {same}"
        old, new = (p.tokens_per_pass or 0 for p in (before, after))
        how = speak("batch_halved" if old == 2 * new else "batch_smaller")
        tokens = speak("batch_tokens", before=old, after=new)
        return f"{how}: {tokens}{more}, {same}"
    if after.layers_kept is not None:
        return f"{speak('batch_fewer_layers', count=after.layers_kept)}, {same}"
    size = f"{after.per_device_batch_size} × {after.gradient_accumulation_steps}"
    return f"{speak('batch_switched_on', what=switches, size=size)}, {same}"


def cut_in(plan: BatchPlan, speak: Speaker = ENGLISH) -> str:
    """Say how an effective batch is cut."""
    text = f"{plan.per_device_batch_size} × {plan.gradient_accumulation_steps}"
    if plan.tokens_per_pass is None:
        return text
    text = f"{text}, {speak('batch_at_most', tokens=plan.tokens_per_pass)}"
    if plan.layers_kept is None:
        return text
    text = f"{text}, {speak('batch_layers_kept', count=plan.layers_kept)}"
    if plan.layers_unpacked:
        text = f"{text}, {speak('batch_layers_unpacked', count=plan.layers_unpacked)}"
    return f"{text}, {speak('batch_embedding_on_host')}" if plan.embedding_on_host else text


def plan_in(plan: BatchPlan, speak: Speaker = ENGLISH) -> str:
    """Say a whole plan."""
    text = cut_in(plan, speak)
    if plan.activation_offloading:
        both = speak("batch_both" if plan.activation_checkpointing else "batch_offloading")
        return f"{text}, {both}"
    return text + (f", {speak('batch_checkpointing')}" if plan.activation_checkpointing else "")


def _switches(plan: BatchPlan, speak: Speaker) -> str:
    if plan.activation_offloading:
        return speak("batch_offloading")
    return speak("batch_checkpointing") if plan.activation_checkpointing else ""
