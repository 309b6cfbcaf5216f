"""Set-up check: the product's loss on one row against the model's own logits, before step 1.

What a library does behind our back with one family of models (a head that leaves out a layer, noise
of its own, a kernel that takes a weight past its adapter) looks like success: the loss falls. Here
one short row shows it. Costs two passes forward and one back over at most 64 tokens.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from runner.errors import ModelError, Problem
from runner.training.fit.memory import let_go
from runner.training.fit.random_state import RandomState
from runner.training.fit.row_lengths import row_lengths

_TOKENS = 64  # of the row: its logits take 64 MB even with 250,000 words
_FEW = 8  # tokens below which a row shows little; only where all rows are so short is one taken
_TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 1e-2}
"""Relative difference of two losses that is rounding: logits in bf16 carry eight bits."""
_LATER_MATTERS = 0.5  # nats; what a later word may change in a log-probability before it: nothing
_OF_AN_EXPERT = re.compile(r"\.experts\.\d+\.")  # one row need not reach every expert


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What one row showed."""

    product: float
    """Loss as training computes it, nats per learned token."""
    plain: float
    """The same from the model's own logits."""
    sees_later: bool
    """A later word changes what the model says of an earlier one."""
    without_gradient: tuple[str, ...]
    """Short names of layers whose adapter gets none."""
    with_gradient: tuple[str, ...]


def check_set_up(trainer: Any, rows: Any, *, compute: str) -> None:
    """Refuse a model that would learn something else than its rows; leaves no trace in the run.

    Args:
        trainer: built whole; its weights, random state, metrics and gradients stay as they were.
        rows: prepared rows, not packed.
        compute: the number format, which says what is rounding.

    Raises:
        ModelError: with what is wrong, and what to do instead.
    """
    problem = judge(look(trainer, rows), tolerance=_TOLERANCE[compute])
    if problem is not None:
        raise ModelError([problem])


def judge(found: Findings, *, tolerance: float) -> Problem | None:
    """Say what is wrong with a set-up; None: it trains right."""
    if found.sees_later:
        return Problem(
            field="model",
            message="this model reads from both sides: it would see the words it has to learn",
            hint="Choose a model that writes text, such as one named -Instruct.",
        )
    if not math.isfinite(found.plain):
        return Problem(
            field="model",
            message="this model computes no numbers here (its loss on one row is "
            f"{found.plain}): its weights are damaged, or too large for the number format of this "
            "machine",
            hint="Fetch the model again; if that changes nothing, choose another one.",
        )
    if not abs(found.product - found.plain) <= tolerance * max(1.0, abs(found.plain)):
        return Problem(
            field="model",
            message="this model does not train right here: on one row the loss is "
            f"{found.product:.4f}, by the model's own logits {found.plain:.4f}",
            hint="Choose another model, and please report this one with its name.",
        )
    if found.without_gradient:
        names = ", ".join(found.without_gradient)
        rest = ", ".join(found.with_gradient)
        return Problem(
            field="lora.target_modules",
            found=names,
            message=f"an adapter on {names} would never be trained: the model takes the weights of "
            "these layers past it",
            hint=f"Write target_modules: [{rest}]" if rest else "Choose another model.",
        )
    return None


def look(trainer: Any, rows: Any) -> Findings:
    """Compute one row's loss both ways."""
    model = trainer.model
    before, was_training = RandomState.capture(), model.training
    try:
        inputs = _batch(trainer, _shortest(rows))
        model.train()
        for module in model.modules():
            if "Dropout" in type(module).__name__:
                module.eval()  # the adapter's own, which the spec asks for
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, dict(inputs), num_items_in_batch=1)
        loss.backward()
        reached = {
            name: weight.grad is not None and bool(weight.grad.abs().max() > 0)
            for name, weight in model.named_parameters()
            # A is multiplied by B, which is zero at first: only B shows whether anything arrives.
            if weight.requires_grad and "lora_B" in name and not _OF_AN_EXPERT.search(name)
        }
        model.eval()
        with trainer.compute_loss_context_manager():
            plain, sees_later = _plain(model, inputs)
    finally:
        model.train(was_training)
        model.zero_grad(set_to_none=True)
        trainer._metrics["train"].clear()  # noqa: SLF001  (no public way to forget a batch)
        trainer._total_train_tokens = 0  # noqa: SLF001
        before.restore()
    learned = int((inputs["labels"][:, 1:] != -100).sum())
    product = float(loss.detach()) / learned
    del loss
    let_go()
    missed = {_short(name) for name, well in reached.items() if not well}
    return Findings(
        product=product,
        plain=plain,
        sees_later=sees_later,
        without_gradient=tuple(sorted(missed)),
        with_gradient=tuple(sorted({_short(name) for name in reached} - missed)),
    )


def _shortest(rows: Any) -> dict[str, list[int]]:
    """Take the end of the shortest row that says something: its last token is learned."""
    lengths = row_lengths(rows)
    enough = [at for at, length in enumerate(lengths) if length >= _FEW]
    row = rows[min(enough or range(len(lengths)), key=lengths.__getitem__)]
    last = max(at for at, label in enumerate(row["labels"]) if label != -100) + 1
    cut = slice(max(0, last - _TOKENS), last)
    return {"input_ids": list(row["input_ids"][cut]), "labels": list(row["labels"][cut])}


def _batch(trainer: Any, row: dict[str, list[int]]) -> dict[str, Any]:
    whole: dict[str, Any] = dict(row)
    if "seq_lengths" in trainer.train_dataset.column_names:
        whole["seq_lengths"] = [len(row["input_ids"])]
    found: dict[str, Any] = trainer._prepare_inputs(trainer.data_collator.pad([whole]))  # noqa: SLF001
    return found


def _plain(model: Any, inputs: dict[str, Any]) -> tuple[float, bool]:
    """Give the loss by the model's own logits, and whether the last word changes earlier ones."""
    import torch
    from torch.nn.functional import cross_entropy

    ids, labels = inputs["input_ids"], inputs["labels"]
    other = ids.clone()
    other[0, -1] = ids[0, 0] if ids[0, 0] != ids[0, -1] else (ids[0, -1] + 1) % (ids.max() + 1)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits.float()
        swapped = model(input_ids=other, use_cache=False).logits.float()
    loss = cross_entropy(logits[0, :-1], labels[0, 1:])
    far = (logits.log_softmax(-1) - swapped.log_softmax(-1))[0, :-1].abs().max()
    return float(loss), bool(far > _LATER_MATTERS)


def _short(name: str) -> str:
    """Give ``q_proj`` for ``base_model.model.model.layers.0.self_attn.q_proj.lora_B.default…``."""
    layer = name.split(".lora_B", maxsplit=1)[0].removesuffix(".base_layer")
    return layer.rsplit(".", 1)[-1]
