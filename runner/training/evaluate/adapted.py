"""A base model with the adapter over it, loaded as its user would, and the loss of both."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.contract.evaluation import Form
from runner.contract.layout import RunFolder
from runner.contract.models import find_model, longest_context, read_config
from runner.contract.stage_io import EvaluatePlan
from runner.spec.spec import JobSpec
from runner.training.evaluate.answers import autocast
from runner.training.evaluate.measure_answers import CURRENT, adapter_on
from runner.training.fit.heldout import HeldOut, held_out_loss
from runner.training.fit.layers_in_turn import run_in_turn
from runner.training.fit.model import Machine, base_cache_of, load_base

if TYPE_CHECKING:
    from runner.training.evaluate.fast_loss import FastLoss

BATCH_SIZE = 8  # rows; halved where it does not fit
_NO_LIMIT = 1_000_000  # tokens: of a model whose config names no longest text


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """One loaded base; adapters are switched on and off over it."""

    model: Any
    tokenizer: Any
    machine: Machine
    context: int
    """Tokens that the model reads at most."""
    has_current: bool = False
    fast: FastLoss | None = None
    """Measures losses without padding; None: the machine cannot."""

    def base(self) -> AbstractContextManager[Any]:
        """Switch every adapter off."""
        found: AbstractContextManager[Any] = self.model.disable_adapter()
        return found

    def current(self) -> AbstractContextManager[Any]:
        """Switch to the adapter in use."""
        return adapter_on(self.model, CURRENT)

    def loss(self, rows: Any) -> HeldOut:
        """Measure the loss of rows with whatever is switched on."""
        if self.fast is not None:
            return self.fast(rows)
        return _loss(self.model, self.tokenizer, self.machine, rows)

    def plain_loss(self, rows: Any, *, batch_size: int) -> HeldOut:
        """Do the same on the plain path, in batches of a size: padding alone is then in its way."""
        return _loss(self.model, self.tokenizer, self.machine, rows, batch_size=batch_size)

    def end_of_losses(self) -> None:
        """Give the memory back that only losses need."""
        if self.fast is not None:
            self.fast.forget()

    def base_loss(self, rows: Any) -> HeldOut:
        """Measure the loss of rows without an adapter."""
        with self.base():
            return self.loss(rows)

    def current_loss(self, rows: Any) -> HeldOut:
        """Measure the loss of rows with the adapter in use."""
        with self.current():
            return self.loss(rows)


def load_adapted(
    run: RunFolder, spec: JobSpec, plan: EvaluatePlan, machine: Machine, form: Form
) -> Adapted:
    """Load the base in a form, with the run's adapter and the one in use."""
    from peft import PeftModel

    from runner.training.data.tokenizer_folder import load_tokenizer
    from runner.training.fit.head import give_head

    folder = find_model(Path(plan.models_dir), spec.model)
    is_shared = plan.base_shared_by > 1
    base = load_base(
        folder,
        method=spec.method if form == "as_trained" else "lora",
        machine=machine.host if is_shared else machine,
        trust_remote_code=plan.trust_remote_code,
        whole=True,
        cache=base_cache_of(plan),
    )
    give_head(base)
    model = PeftModel.from_pretrained(base, run.adapter).eval()
    if plan.current_adapter:
        model.load_adapter(plan.current_adapter, adapter_name=CURRENT)
        model.eval()
        model.set_adapter("default")
    if is_shared:
        run_in_turn(model, shared_by=plan.base_shared_by, device=machine.device)
    tokenizer = load_tokenizer(run.adapter)
    return Adapted(
        model=model,
        tokenizer=tokenizer,
        machine=machine,
        # The fast path has all layers on the card, or a cache of its own of those that wait.
        fast=None if is_shared else _fast_loss(model, tokenizer, machine, plan.gpu_memory_bytes),
        context=longest_context(read_config(folder, spec.model)) or _NO_LIMIT,
        has_current=bool(plan.current_adapter),
    )


def _loss(
    model: Any, tokenizer: Any, machine: Machine, rows: Any, *, batch_size: int = BATCH_SIZE
) -> HeldOut:
    """Measure the loss of rows on the plain path."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collator = DataCollatorForLanguageModeling(
        pad_token_id=tokenizer.pad_token_id, padding_free="seq_lengths" in rows.column_names
    )
    known = {"input_ids", "labels", "seq_lengths"}
    inputs = rows.remove_columns([c for c in rows.column_names if c not in known])
    with autocast(machine):
        return held_out_loss(model, inputs, collator, batch_size=batch_size, device=model.device)


def _fast_loss(
    model: Any, tokenizer: Any, machine: Machine, cap_bytes: int | None
) -> FastLoss | None:
    if not machine.on_gpu or machine.compute != "bfloat16":
        return None
    from runner.training.evaluate.fast_loss import FastLoss

    plain = partial(_loss, model, tokenizer, machine)
    return FastLoss(model, plain, on_gpu=True, cap_bytes=cap_bytes)
