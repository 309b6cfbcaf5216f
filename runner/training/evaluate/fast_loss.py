"""Held-out loss of the evaluate stage, measured on the fast path where that gives the same.

Rows lie side by side without padding, so the card computes nothing that nobody asked for. Whether
it gives the same is tried on two rows, and the log says which path it is.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import torch

from runner.forecast.passes import MOST_TOKENS, Passes, budget, chunk_for
from runner.forecast.work import CONTEXT_BYTES
from runner.training.fit.heldout import HeldOut
from runner.training.fit.heldout_fast import measure_rows
from runner.training.fit.memory import let_go
from runner.training.fit.row_lengths import row_lengths
from runner.training.kernels.fast_model import FastModel
from runner.training.kernels.recognise import NotRecognised, recognise

_ROWS = 2  # that are measured both ways
_OFF = {torch.float32: 1e-3, torch.bfloat16: 2e-2}
"""Relative. Logits in bf16 carry eight bits; a layer that computes otherwise is off by more."""

Measure = Callable[[Any], HeldOut]


class FastLoss:
    """Measures a model with or without its adapter, as PEFT has it at the time."""

    def __init__(
        self, model: Any, plain: Measure, *, on_gpu: bool, cap_bytes: int | None = None
    ) -> None:
        """Begin with a PEFT model, and what measures it on the plain path."""
        self._model, self._plain = model, plain
        self._on_gpu, self._cap_bytes = on_gpu, cap_bytes
        self._dtype: torch.dtype = model.get_output_embeddings().weight.dtype
        self._fast: FastModel | None = None
        self._longest = 0
        self._tried = False

    def __call__(self, rows: Any) -> HeldOut:
        """Measure; on the plain path where the fast one does not know the model, or failed."""
        if list(self._model.active_adapters) != ["default"]:  # not the run's own
            return self._plain(rows)
        try:
            if not self._tried:
                self._tried = True
                self._set_up(rows)
            if self._fast is not None and max(row_lengths(rows)) <= self._longest:
                return self._measure(self._fast, rows)
        except NotRecognised as error:
            why = f"this model has {error}, which the fast path does not know"
        except Exception as error:  # a fault here must cost speed, never the run
            traceback.print_exc()
            traceback.clear_frames(error.__traceback__)
            why = f"the fast one failed ({type(error).__name__})"
        else:
            return self._plain(rows)
        self.forget()
        print(f"Held-out loss: plain path, {why}.", flush=True)
        return self._plain(rows)

    def forget(self) -> None:
        """Give the memory back that it holds beside the model."""
        self._fast = None
        let_go()

    def _set_up(self, rows: Any) -> None:
        lengths = row_lengths(rows)
        longest = max(lengths)
        parts = recognise(self._model, dtype=self._dtype, longest=longest)
        unlimited = Passes(most_tokens=1, layers_kept=0, budget_bytes=None, chunk=1)
        fast = FastModel(parts=parts, passes=unlimited)
        fast.passes = _passes(fast, self._room())
        shortest = sorted(range(len(lengths)), key=lengths.__getitem__)[:_ROWS]
        few = rows.select(shortest)
        found, wanted = self._measure(fast, few).loss, self._plain(few).loss
        if not abs(found - wanted) <= _OFF[self._dtype] * max(1.0, abs(wanted)):
            raise NotRecognised(f"something that computes otherwise ({found:.4f}, {wanted:.4f})")
        self._fast, self._longest = fast, longest
        print("Held-out loss: fast path, without padding.", flush=True)

    def _measure(self, fast: FastModel, rows: Any) -> HeldOut:
        fast.parts.adapter.refresh()
        # A layer's property; transformers' models have a method of that name.
        if any(getattr(m, "disable_adapters", False) is True for m in self._model.modules()):
            fast.parts.adapter.silence()
        return measure_rows(fast, rows)

    def _room(self) -> int | None:
        if not self._on_gpu:
            return None
        if self._cap_bytes is None:
            limit = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
        else:
            limit = self._cap_bytes - CONTEXT_BYTES
        return budget(limit, torch.cuda.memory_allocated())


def _passes(fast: FastModel, room: int | None) -> Passes:
    """Take as many tokens at once as there is room for, forward alone."""
    chunk = chunk_for(fast.sizes, room)
    tokens = MOST_TOKENS
    if room is not None:
        each = fast.sizes.full + fast.sizes.back
        tokens = min(MOST_TOKENS, max(1, (room - chunk * fast.sizes.logits) // each))
    return Passes(most_tokens=tokens, layers_kept=0, budget_bytes=room, chunk=chunk)
