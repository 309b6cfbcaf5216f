"""Start adapter: the first weights of a run are those of another run's adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.contract.stage_io import TrainPlan
from runner.errors import ModelError, Problem

WEIGHTS = "adapter_model.safetensors"
_SHOWN = 3  # names of weights in a sentence


def give_first_weights(model: Any, plan: TrainPlan) -> None:
    """Bring a run's adapter to fp32, with another run's weights where it starts from those.

    In this order: TRL has made QLoRA's adapter bf16 by now, which would round them.

    Raises:
        ModelError: the other adapter has another shape, or cannot be read.
    """
    from runner.training.fit.model import use_fp32_adapters

    use_fp32_adapters(model)
    if plan.start_adapter is not None and plan.resume_from is None:
        start_from_adapter(model, Path(plan.start_adapter))


def start_from_adapter(model: Any, folder: Path) -> None:
    """Give a model's fresh adapter the weights of an exported one.

    Raises:
        ModelError: they are of another shape, with both named, or cannot be read.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        what = f"the adapter in use cannot be read ({type(error).__name__})"
        raise ModelError(
            [Problem(field="start_from", message=what, hint="leave it out to begin afresh")]
        ) from error
    mine = get_peft_model_state_dict(model)
    differ = [
        f"{name} {_shape(weights.get(name))} / {_shape(mine.get(name))}"
        for name in sorted(weights.keys() | mine.keys())
        if _shape(weights.get(name)) != _shape(mine.get(name))
    ]
    if differ:
        more = "; …" if len(differ) > _SHOWN else ""
        shapes = "; ".join(differ[:_SHOWN]) + more
        what = (
            f"{len(differ)} weights of the adapter in use have another shape than this run's "
            f"(in use / this run): {shapes}"
        )
        if len(differ) == 1:
            what = (
                "1 weight of the adapter in use has another shape than this run's (in use / this "
                f"run): {shapes}"
            )
        hint = "Give lora.r and lora.target_modules its values, or leave start_from out."
        raise ModelError([Problem(field="start_from", message=what, hint=hint)])
    set_peft_model_state_dict(model, weights)


def _shape(weight: Any) -> str:
    return "–" if weight is None else "×".join(map(str, weight.shape))
