"""The fast path: whether a run trains on it (recognised, checked on two rows), and if not, why.

It gives the same adapter as the plain path (PEFT and bitsandbytes as they are) in less time and
memory. Whatever it does not know, or gets other gradients for, trains on the plain path.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from runner.contract.batch import BatchPlan, smaller
from runner.errors import RunnerError
from runner.forecast.passes import (
    MOMENTS,
    MOST_HOLES,
    MOST_HOLES_FP8,
    Passes,
    budget,
    choose_place,
    keep_unpacked,
    layers_kept,
    long_bytes,
    passes_within,
    peak_bytes,
)
from runner.training.fit.heldout import HeldOut
from runner.training.fit.heldout_fast import base_loss, fast_held_out_loss
from runner.training.fit.memory import Meter, classify, let_go, plan_does_not_fit
from runner.training.fit.row_lengths import row_lengths
from runner.training.fit.share_base import TRIED, away, drop_modules, first_layers, refuse
from runner.training.fit.stop import Interrupted
from runner.training.kernels import gpu
from runner.training.kernels.base_on_host import BaseOnHost
from runner.training.kernels.check import ALLOWED_IN_FP8, Checked, check
from runner.training.kernels.fast_model import FastModel
from runner.training.kernels.recognise import NotRecognised, Parts, recognise

COST = "the same adapter, in about two to three times the time"


class FastPathFailed(Exception):  # noqa: N818  (not the run's end)
    """A fault in the middle of training: the plain path goes on after the last finished step."""


@dataclass(kw_only=True)
class FastPath:
    """A run on the fast path."""

    model: FastModel
    longest: int
    batch_tokens: int
    budget_bytes: int | None
    meter: Meter
    exact_because: str | None = None
    """Why `speed: fp8` was asked for and is not used."""
    shares_base: bool = False
    """Layers wait on the host: there is no plain path to fall back to."""
    measures: bool = True
    """The held-out loss is measured on it; no longer once that failed."""

    def train_on(self, batch: Any, learned_in_step: Any) -> torch.Tensor:
        """Train on a micro-batch, as `FastModel.train_on`.

        Raises:
            FastPathFailed: a fault that the plain path need not have; the traceback is in the log.
        """
        try:
            return self.model.train_on(batch, learned_in_step)
        except Exception as error:  # a fault here must cost speed, never the run
            known = isinstance(error, Interrupted | RunnerError) or classify(error) is not None
            if known or self.shares_base:
                raise
            traceback.print_exc()
            traceback.clear_frames(error.__traceback__)
            why = type(error).__name__
        raise FastPathFailed(why)  # out here nothing holds on to the tensors of the error

    def measure(self, rows: Any, *, base: bool = False, **how: Any) -> HeldOut | None:
        """Measure the held-out loss, or with ``base`` the base's.

        None, with a line in the log: the plain path has to.
        """
        if not self.measures:
            return None
        try:
            return (base_loss if base else fast_held_out_loss)(self.model, rows, **how)
        except Exception as error:  # a fault here must cost speed, never the run
            too_large = plan_does_not_fit(classify(error), on_gpu=self.meter.on_gpu)
            if too_large or self.shares_base or isinstance(error, Interrupted):
                raise
            traceback.print_exc()
            traceback.clear_frames(error.__traceback__)
            why = type(error).__name__
            print(f"Held-out loss: plain path, the fast one failed ({why}).", flush=True)
        self.measures = False
        let_go()
        self._bring_embedding_back()
        return None

    def _bring_embedding_back(self) -> None:
        """Let the plain path find its words on the card, and passes be as small as that asks."""
        was = self.model.passes
        if was.embedding_on_host:
            most = {"most_tokens": was.most_tokens, "most_kept": self.kept}
            self._make(
                passes_within(
                    self.model.sizes,
                    budget_bytes=self.budget_bytes,
                    longest=self.longest,
                    batch_tokens=self.batch_tokens,
                    on_host=was.on_host,
                    **most,
                )
            )

    def take(self, plan: BatchPlan) -> None:
        """Choose passes within the plan's limits, forecast or set by a lack of memory."""
        sizes, moved = self.model.sizes, plan.embedding_on_host and self.model.sizes.embedding > 0
        known: dict[str, Any] = {
            "budget_bytes": self._budget(moved=moved),
            "longest": self.longest,
            "batch_tokens": self.batch_tokens,
        }
        if plan.layers_kept is None:
            passes = keep_unpacked(sizes, choose_place(sizes, **known))
        else:
            limits = {"most_tokens": plan.tokens_per_pass or 1, "most_kept": plan.layers_kept}
            on_host = plan.activation_offloading
            passes = passes_within(sizes, **known, **limits, on_host=on_host)
            passes = replace(passes, embedding_on_host=moved)
            passes = keep_unpacked(sizes, passes, most=plan.layers_unpacked)
        if self.shares_base:  # a layer that is sent for is not kept
            passes = replace(passes, layers_unpacked=0)
        self._make(passes)

    def _budget(self, *, moved: bool) -> int | None:
        here = self.budget_bytes
        return here + self.model.sizes.embedding if moved and here is not None else here

    def _make(self, passes: Passes) -> None:
        self.model.passes = passes
        self.model.parts.keep_embedding_on_host(on=passes.embedding_on_host)
        self.model.parts.keep_unpacked(passes.layers_unpacked)
        if self.meter.on_gpu:
            # At a limit the allocator gives the holes between passes back first.
            self.meter.confine(self._needed_bytes())

    def _needed_bytes(self) -> int:
        model = self.model
        peak = peak_bytes(model.sizes, model.passes.most_tokens, self.kept, model.passes.chunk)
        if model.passes.on_host:
            peak = max(peak, long_bytes(model.sizes, self.longest, model.passes.chunk))
        trained = model.parts.adapter.flat_grad.numel()
        holes = MOST_HOLES_FP8 if model.fp8 else MOST_HOLES
        unpacked = model.passes.layers_unpacked * model.sizes.unpacked  # they come and stay
        return unpacked + int(holes * (torch.cuda.memory_allocated() + MOMENTS * trained + peak))

    def leave(self) -> None:
        """Give the plain path its words, and the allocator what it may have."""
        self.meter.confine(None)
        self.model.parts.keep_embedding_on_host(on=False)

    @property
    def kept(self) -> int:
        """Layers that keep everything in the largest pass."""
        return layers_kept(self.model.sizes, self.model.passes, self.model.passes.most_tokens)

    def __str__(self) -> str:
        text = (
            f"at most {self.model.passes.most_tokens:,} tokens at once, without padding; "
            f"{self.kept} of {self.model.sizes.layers} layers keep everything"
        )
        if self.model.passes.layers_unpacked:
            text = f"{text}; {self.model.passes.layers_unpacked} stay unpacked"
        if self.model.passes.embedding_on_host:
            text = f"{text}; the words that go in come from host memory"
        return f"{text}; for longer rows the host keeps" if self.model.passes.on_host else text

    def in_force(self, plan: BatchPlan) -> BatchPlan:
        """Give the plan with the passes that were chosen."""
        return plan.model_copy(
            update={
                "tokens_per_pass": self.model.passes.most_tokens,
                "layers_kept": self.kept,
                "layers_unpacked": self.model.passes.layers_unpacked,
                "embedding_on_host": self.model.passes.embedding_on_host,
            }
        )

    def smaller(self, plan: BatchPlan, *, may_offload: bool) -> BatchPlan | None:
        """Give the next plan to try; without ``layers_kept`` it is the plain path's."""
        return smaller(
            self.in_force(plan),
            may_offload=may_offload,
            may_move_embedding=may_offload and self.model.sizes.embedding > 0,
            lengths=[self.longest],
        )


def find(
    trainer: Any,
    rows: Any,
    plan: BatchPlan,
    meter: Meter,
    compute: str,
    wanted: bool | None,  # noqa: FBT001
    held_out: Any = None,
    *,
    fp8: bool = False,
) -> FastPath | None:
    """Set the fast path up, or say in the log why the run goes on the plain one.

    Args:
        trainer: built, with its model.
        rows: what it trains on.
        plan: the batch plan.
        meter: knows the cap.
        compute: what the machine computes in.
        wanted: the plan's word; None: where there is a card; False: one attempt failed with it.
        held_out: rows that are measured in between; None: none.
        fp8: the spec's `speed: fp8`.

    Raises:
        StageError: the base is shared, which the plain path cannot.
    """
    shared_by = trainer.base_shared_by
    if wanted is False:
        print("Plain path: an attempt before this one failed on the fast one.", flush=True)
    if wanted is False or (wanted is None and not meter.on_gpu):
        if shared_by > 1:
            raise refuse("it is not to train on the fast path")
        return None
    why = _obstacle(plan, compute, on_gpu=meter.on_gpu)
    if why is None:
        try:
            found = _set_up(trainer, rows, plan, meter, getattr(torch, compute), held_out, fp8=fp8)
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
    if shared_by > 1:
        raise refuse(why)
    print(f"Plain path: {why}. It gives {COST}.", flush=True)
    return None


def _obstacle(plan: BatchPlan, compute: str, *, on_gpu: bool) -> str | None:
    if plan.activation_offloading and plan.layers_kept is None:
        return "the batch plan keeps activations in the host's memory"
    if on_gpu and gpu.triton is None:
        return "Triton is not installed"
    if on_gpu and compute != "bfloat16":
        return f"this card computes in {compute}"
    return None


def _set_up(
    trainer: Any,
    rows: Any,
    plan: BatchPlan,
    meter: Meter,
    dtype: torch.dtype,
    held_out: Any,
    *,
    fp8: bool,
) -> FastPath:
    lengths = sorted(row_lengths(rows), reverse=True)
    # Packed rows are laid side by side like any others: none is as long as its sequence.
    packed = "seq_lengths" in rows.column_names
    longest = max(map(max, rows["seq_lengths"])) if packed else lengths[0]
    measured = max(row_lengths(held_out), default=0) if held_out is not None else 0
    model, shares = trainer.model, trainer.base_shared_by > 1
    parts = recognise(model, dtype=dtype, longest=max(longest, measured))
    if shares:
        drop_modules(model, but_first=TRIED)  # or the host would hold each layer twice
        waiting = away(len(parts.layers), trainer.base_shared_by)
        BaseOnHost(parts.layers, waiting, parts.head.weight.device)
    compare = partial(
        check,
        replace(parts, layers=parts.layers[:TRIED]) if shares else parts,
        list(model.get_base_model().model.layers)[: TRIED if shares else None],
        [ids[:longest] for ids in _longest_two(rows)],  # positions are known no further
        partial(_loss_of, trainer),
        config=model.get_base_model().config.get_text_config(),
    )
    with _without_dropout(model), first_layers(model, alone=shares):
        checked = compare()
    let_go()
    print(
        f"Fast path's check against the plain path on two rows: off by {checked.worst:.2g} at "
        f"most ({checked.where}), {checked.allowed:g} allowed.",
        flush=True,
    )
    if not checked.fits:
        raise NotRecognised(f"something that computes otherwise ({checked.where})")
    why = None
    if fp8:
        with _without_dropout(model), first_layers(model, alone=shares):
            why = _switch_to_fp8(parts, compare)
        trainer.model.zero_grad(set_to_none=True)
        let_go()
    if shares:
        drop_modules(model)
        let_go()
    unlimited = Passes(most_tokens=1, layers_kept=None, budget_bytes=None, chunk=1)
    found = FastPath(
        model=FastModel(
            parts=parts, passes=unlimited, fp8=fp8 and why is None, more_room=meter.lift
        ),
        exact_because=why,
        shares_base=shares,
        longest=longest,
        batch_tokens=sum(lengths[: plan.effective_batch_size]),
        meter=meter,
        budget_bytes=_budget(
            meter, trained=parts.adapter.flat_grad.numel(), fp8=fp8 and why is None
        ),
    )
    found.take(plan)
    return found


def _longest_two(rows: Any) -> list[Any]:
    """Give the ids of the longest rows: a row of one token shows nothing of attention."""
    lengths = row_lengths(rows)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [rows[i]["input_ids"] for i in order[:2]]


def _switch_to_fp8(parts: Parts, compare: Callable[..., Checked]) -> str | None:
    """Compute the base's products in eight bits; where that is wrong here, say why it is not."""
    try:
        parts.use_fp8()
        checked = compare(allowed=ALLOWED_IN_FP8)
        why = None if checked.fits else f"{checked.where} was off by {checked.worst:.2g}"
        print(
            f"speed: fp8: the base's products are computed in 8 bits, off by {checked.worst:.2g} "
            f"at most ({checked.where}), {checked.allowed:g} allowed. Gradients are less exact "
            "than in 16 bits; held-out rows are measured in 16.",
            flush=True,
        )
    except NotRecognised as error:
        why = f"this model has {error}"
    except Exception as error:  # a fault here must cost speed, never the run
        traceback.print_exc()
        traceback.clear_frames(error.__traceback__)
        why = f"it failed ({type(error).__name__})"
    if why is not None:
        print(f"speed: fp8 is not used: {why}. Trained in 16 bits.", flush=True)
        parts.use_fp8(on=False)
    return why


@contextmanager
def _without_dropout(model: Any) -> Iterator[None]:
    """Compare what is drawn by chance in neither way."""
    drawing = [m for m in model.modules() if isinstance(m, torch.nn.Dropout) and m.training]
    for module in drawing:
        module.eval()
    try:
        yield
    finally:
        for module in drawing:
            module.train()


def _budget(meter: Meter, *, trained: int, fp8: bool) -> int | None:
    """Give what activations may take: the cap, less all that is there or will be."""
    if not meter.on_gpu:
        return None
    if meter.cap_bytes is None:
        limit = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    else:
        limit = meter.cap_bytes - meter.context_bytes
    return budget(limit, torch.cuda.memory_allocated() + MOMENTS * trained, fp8=fp8)


def _loss_of(trainer: Any, row: torch.Tensor) -> torch.Tensor:
    """Give the plain path's loss of a row, each token learned but the first."""
    ids = row[None].to(trainer.args.device)
    with trainer.compute_loss_context_manager():
        logits = trainer.model(input_ids=ids, use_cache=False).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits.float(), ids[0, 1:], reduction="sum")
