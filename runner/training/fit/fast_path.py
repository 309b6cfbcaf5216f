"""The fast path: whether a run trains on it (recognised, checked on two rows), and if not, why.

It gives the same adapter as the plain path (PEFT and bitsandbytes as they are) in less time and
memory. Whatever it does not know, or gets other gradients for, trains on the plain path.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from runner.contract.batch import BatchPlan, smaller
from runner.training.fit.memory import Meter, classify, let_go, plan_does_not_fit
from runner.training.kernels import gpu
from runner.training.kernels.fast_model import FastModel
from runner.training.kernels.recognise import NotRecognised, recognise
from runner.training.kernels.room import Passes, choose, layers_kept
from runner.training.kernels.rows import Row

GRADIENTS_OFF = {torch.bfloat16: 0.15, torch.float32: 1e-3}
"""How far gradients may lie from the plain path's, relative. Two ways to round in bf16 differ by
0.03 to 0.05 (measured, 2 layers of 8B); a scale or a mask that is wrong, by far more."""
LOSS_OFF = {torch.bfloat16: 2e-2, torch.float32: 1e-4}
_CHECKED_TOKENS = (96, 64)  # of two rows: enough to see every part, little beside the cap
_CHECKED_B = 0.01  # B of a fresh adapter is 0, and would hide A's gradients
_KEPT_FREE = 0.03  # of the cap: what the allocator cannot use
_KEPT_FREE_BYTES = 200 * 2**20  # the same under a small cap, where it took more
_COST = "the same adapter, in about two to three times the time"


@dataclass(kw_only=True)
class FastPath:
    """A run on the fast path."""

    model: FastModel
    longest: int
    batch_tokens: int
    budget_bytes: int | None

    def take(self, plan: BatchPlan) -> None:
        """Choose passes within the plan's limits, which an earlier lack of memory set."""
        limited = plan.layers_kept is not None
        self.model.passes = choose(
            self.model.sizes,
            budget_bytes=self.budget_bytes,
            longest=self.longest,
            batch_tokens=self.batch_tokens,
            most_tokens=plan.tokens_per_pass if limited else None,
            most_kept=plan.layers_kept,
        )

    @property
    def kept(self) -> int:
        """Layers that keep everything in the largest pass."""
        return layers_kept(self.model.sizes, self.model.passes, self.model.passes.most_tokens)

    def __str__(self) -> str:
        return (
            f"at most {self.model.passes.most_tokens:,} tokens at once, without padding; "
            f"{self.kept} of {self.model.sizes.layers} layers keep everything"
        )

    def smaller(self, plan: BatchPlan, *, may_offload: bool) -> BatchPlan | None:
        """Give the next plan to try: smaller passes, then fewer layers kept, then the plain path's.

        The batch stays whole: a pass holds as many rows as it has room for.
        """
        passes = self.model.passes
        if passes.most_tokens > self.longest:
            tokens = max(self.longest, passes.most_tokens // 2)
            limit = self.model.sizes.layers if passes.layers_kept is None else passes.layers_kept
            return plan.model_copy(update={"tokens_per_pass": tokens, "layers_kept": limit})
        if self.kept:
            return plan.model_copy(
                update={"tokens_per_pass": self.longest, "layers_kept": self.kept // 2}
            )
        leanest = plan.model_copy(
            update={
                "tokens_per_pass": self.longest,
                "layers_kept": None,
                "activation_checkpointing": True,
            }
        )
        return smaller(leanest, may_offload=may_offload)


def find(  # noqa: PLR0917  (the facts it decides by)
    trainer: Any,
    rows: Any,
    plan: BatchPlan,
    meter: Meter,
    compute: str,
    wanted: bool | None,  # noqa: FBT001
) -> FastPath | None:
    """Set the fast path up, or say in the log why the run goes on the plain one.

    Args:
        trainer: built, with its model.
        rows: what it trains on.
        plan: the batch plan.
        meter: knows the cap.
        compute: what the machine computes in.
        wanted: the plan's word; None: where there is a card.
    """
    if wanted is False or (wanted is None and not meter.on_gpu):
        return None
    why = _obstacle(rows, plan, compute, on_gpu=meter.on_gpu)
    if why is None:
        try:
            found = _set_up(trainer, rows, plan, meter, getattr(torch, compute))
            print(f"Fast path: {found}.", flush=True)
            return found
        except NotRecognised as error:
            why = f"this model has {error}, which the fast path does not know"
        except Exception as error:  # a fault here must cost speed, never the run
            traceback.print_exc()
            why = f"setting up the fast path failed ({type(error).__name__})"
            if plan_does_not_fit(classify(error), on_gpu=meter.on_gpu):
                why = "there was no memory to check the fast path with"
            traceback.clear_frames(error.__traceback__)
        trainer.model.zero_grad(set_to_none=True)
        let_go()
    print(f"Plain path: {why}. It gives {_COST}.", flush=True)
    return None


def _obstacle(rows: Any, plan: BatchPlan, compute: str, *, on_gpu: bool) -> str | None:
    if plan.activation_offloading:
        return "the batch plan keeps activations in the host's memory"
    if "seq_lengths" in rows.column_names:
        return "the rows are packed"
    if on_gpu and gpu.triton is None:
        return "Triton is not installed"
    if on_gpu and compute != "bfloat16":
        return f"this card computes in {compute}"
    return None


def _set_up(trainer: Any, rows: Any, plan: BatchPlan, meter: Meter, dtype: torch.dtype) -> FastPath:
    lengths = sorted((len(ids) for ids in rows["input_ids"]), reverse=True)
    parts = recognise(trainer.model, dtype=dtype, longest=lengths[0])
    checked = Passes(most_tokens=sum(_CHECKED_TOKENS), layers_kept=1, budget_bytes=None, chunk=64)
    model = FastModel(parts=parts, passes=checked)
    _check(trainer, model, [rows[i]["input_ids"] for i in range(min(2, len(rows)))])
    let_go()
    found = FastPath(
        model=model,
        longest=lengths[0],
        batch_tokens=sum(lengths[: plan.effective_batch_size]),
        budget_bytes=_budget(meter, trained=parts.adapter.flat_grad.numel()),
    )
    found.take(plan)
    return found


def _budget(meter: Meter, *, trained: int) -> int | None:
    """Give what activations may take: the cap, less all that is there or will be."""
    if not meter.on_gpu:
        return None
    if meter.cap_bytes is None:
        limit = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    else:
        limit = meter.cap_bytes - meter.context_bytes
    moments = 2 * 4 * trained  # AdamW's, fp32: they come with the first optimizer step
    free = int(_KEPT_FREE * limit) + _KEPT_FREE_BYTES
    return max(0, limit - free - torch.cuda.memory_allocated() - moments)


def _check(trainer: Any, model: FastModel, ids: Sequence[Sequence[int]]) -> None:
    """Compare loss and gradients with the plain path's, on the starts of two rows.

    Raises:
        NotRecognised: they differ by more than rounding.
    """
    rows = [_start(one, length) for one, length in zip(ids, _CHECKED_TOKENS, strict=False)]
    items = sum(one.numel() - 1 for one, _ in rows)
    weights = model.parts.adapter.weights
    with _some_b(model):
        found_loss = float(model.train_on(rows, items))
        found = [weight.grad.clone() for weight in weights]
        trainer.model.zero_grad(set_to_none=True)
        wanted_loss = sum(_plain(trainer, row, items) for row in rows)
        wanted = [weight.grad for weight in weights]
        apart = sum(float((a - b).square().sum()) for a, b in zip(found, wanted, strict=True))
        size = sum(float(b.square().sum()) for b in wanted)
        trainer.model.zero_grad(set_to_none=True)
    off = (apart / max(size, 1e-30)) ** 0.5
    loss_off = abs(found_loss - wanted_loss) / max(abs(wanted_loss), 1e-30)
    dtype = model.parts.dtype
    fits = (
        off <= GRADIENTS_OFF[dtype] and loss_off <= LOSS_OFF[dtype]
    )  # False where one is no number
    print(
        f"Fast path's check on two rows: gradients {off:.2g} from the plain path's "
        f"({GRADIENTS_OFF[dtype]:g} allowed), loss {loss_off:.2g} ({LOSS_OFF[dtype]:g} allowed).",
        flush=True,
    )
    if not fits:
        raise NotRecognised("a layer that gives other gradients")


def _start(ids: Sequence[int], length: int) -> Row:
    """Learn every token: what a check compares must not depend on where the answers stand."""
    start = torch.tensor(ids[:length])
    return start, start


@contextmanager
def _some_b(model: FastModel) -> Iterator[None]:
    """Add small numbers to B for the time of a check, from a generator of its own."""
    adapter = model.parts.adapter
    ups = [lora.up for group in adapter.groups for lora in group.loras]
    before = [up.data.clone() for up in ups]
    dice = torch.Generator().manual_seed(0)
    for up in ups:
        up.data += _CHECKED_B * torch.randn(up.shape, generator=dice).to(up.device)
    try:
        yield
    finally:
        for up, was in zip(ups, before, strict=True):
            up.data.copy_(was)


def _plain(trainer: Any, row: Row, items: int) -> float:
    ids = row[0][None].to(trainer.args.device)
    with trainer.compute_loss_context_manager():
        logits = trainer.model(input_ids=ids, use_cache=False).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits.float(), ids[0, 1:], reduction="sum") / items
    loss.backward()
    return float(loss.detach())
