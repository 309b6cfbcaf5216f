"""Doubtful settings: each is allowed, and hardly ever what its writer meant; the answer says so."""

from __future__ import annotations

from collections.abc import Iterator

from runner.spec.spec import JobSpec

_HIGH_RATE, _LOW_RATE = 0.01, 1e-6
"""Adapters are trained at 1e-5 to 1e-3 (LoRA, QLoRA and what came after them); ten times beside
that a run spoils its model, or ends as it began."""
_HIGH_SCALE, _LOW_SCALE = 16.0, 1 / 16
"""By what an adapter's output is multiplied; 1 to 4 is usual."""
_LONG_WARM_UP = 0.5  # of all steps; usual are 3 to 10%


def doubtful(spec: JobSpec) -> Iterator[str]:
    """Name what is surely worth a second look, and why."""
    rate, lora = spec.training.learning_rate, spec.lora
    if rate > _HIGH_RATE:
        yield (
            f"learning_rate {rate:g} is very high: it most likely spoils the model; adapters are "
            "trained with 1e-5 to 1e-3"
        )
    elif rate < _LOW_RATE:
        yield (
            f"learning_rate {rate:g} is very low: hardly anything is learned; adapters are trained "
            "with 1e-5 to 1e-3"
        )
    scale = lora.alpha / (lora.r**0.5 if lora.use_rslora else lora.r)
    weighted = f"alpha {lora.alpha:g} with r {lora.r} weights the adapter by {scale:.2g}"
    if scale > _HIGH_SCALE:
        yield f"{weighted}: it most likely spoils the model; usual are 1 to 4"
    elif scale < _LOW_SCALE:
        yield f"{weighted}: hardly anything is learned; usual are 1 to 4"
    if spec.training.warmup_ratio > _LONG_WARM_UP:
        yield (
            f"warmup_ratio {spec.training.warmup_ratio:.0%}: for so much of the training the "
            "learning rate only rises; usual are 3 to 10%"
        )
    if spec.training.max_steps is None and spec.epochs < 1:
        yield f"epochs {spec.epochs:g}: only a part of the rows is learned"
