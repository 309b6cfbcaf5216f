"""Adapter layers: which layers of a model get an adapter, and why a named one cannot."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from runner.errors import ModelError, Problem

ALL = "all-linear"
_FIELD = "lora.target_modules"
_LISTED = 12  # names of layers in one message; models have seven or so
_KERNEL_TAKES_WEIGHT = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
"""Families whose kernels take ``out_proj``'s weight past its layer: an adapter there is not used.
PEFT refuses it."""


_PAST_ITS_LAYER = frozenset({"dt_proj"})
"""Layers that Mamba, Jamba and Doge only take the weight of: an adapter there gets no gradient."""


def left_out(model: Any) -> list[str]:
    """Name the linear layers that ``all-linear`` leaves out, because an adapter there would break.

    Mamba's ``out_proj`` and ``dt_proj`` (see above), and layers made from ``nn.Linear`` that answer
    with something else: Llama 4's router gives a pair, Phi-MoE's has a gradient rule of its own.
    """
    found = {
        name.rsplit(".", 1)[-1] for name, module in model.named_modules() if _is_odd_linear(module)
    }
    if getattr(model.config, "model_type", None) in _KERNEL_TAKES_WEIGHT:
        found.add("out_proj")
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    return sorted(found | (_PAST_ITS_LAYER & names))


def require_adaptable(model: Any, wanted: Sequence[str]) -> None:
    """Refuse names that no layer has, and layers on which no adapter is trained here.

    Raises:
        ModelError: with the names that do not match, and the model's own.
    """
    modules = dict(model.named_modules())
    heads = [
        (model.get_output_embeddings(), "the layer that chooses words (its output layer)"),
        (model.get_input_embeddings(), "the table of words (its input embeddings)"),
    ]
    unmatched: list[str] = []
    for name in wanted:
        fitting = [module for key, module in modules.items() if matches(key, name)]
        for module, what in heads:
            if module is not None and any(one is module for one in fitting):
                raise _refusal(
                    name,
                    f"{name} is {what}: no adapter is trained on it here, because the loss takes "
                    "its weights directly and most programs cannot load such an adapter",
                    hint=f"Leave {name} out.",
                )
        if not fitting and not _names_weight(model, name):
            unmatched.append(name)
    if unmatched:
        raise no_such_layers(unmatched, layer_names(model))


def no_such_layers(unmatched: Sequence[str], known: Iterable[str]) -> ModelError:
    """Refuse names that no layer of the model has."""
    names = sorted(set(known))
    near = {
        name: match[0]
        for name in unmatched
        if (match := difflib.get_close_matches(name, names, n=1, cutoff=0.5))
    }
    meant = ", ".join(f"{right} instead of {wrong}" for wrong, right in near.items())
    listed = ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
    which = "layer" if len(unmatched) == 1 else "layers"
    return _refusal(
        ", ".join(unmatched),
        f"the model has no {which} named {', '.join(unmatched)}; its layers are {listed}",
        hint=(f"Did you mean {meant}? " if meant else "") + f"Or write {ALL}.",
    )


def layer_names(model: Any) -> list[str]:
    """List the short names of the linear layers that can be adapted, the output layer left out."""
    head = model.get_output_embeddings()
    odd = set(left_out(model))
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if _is_linear(module) and module is not head
    }
    return sorted(name for name in names - odd if not name.isdigit())


def unusable_adapter(error: BaseException, wanted: Sequence[str] | str) -> ModelError:
    """Turn what PEFT says of a model into a refusal; it saw no row of data."""
    said = " ".join(str(error).split())
    fused = re.search(r"Cannot convert PEFT target\(s\) (.+) without also targeting (.+?) ", said)
    shown = wanted if isinstance(wanted, str) else ", ".join(wanted)
    if fused:
        return _refusal(
            shown,
            f"this model joins {fused[1]} and {fused[2]} in one layer: both get an adapter or none",
            hint=f"Add {fused[2]} to target_modules, or leave {fused[1]} out.",
        )
    if "dropout" in said:
        problem = Problem(
            field="lora.dropout",
            message="this model's experts (MoE) take no dropout on their adapter",
            hint="Leave lora.dropout out, or name only layers of attention in target_modules.",
        )
        return ModelError([problem])
    return _refusal(
        shown,
        f"no adapter can be put on these layers of this model: {said[:300]}",
        hint="Name other layers, such as [q_proj, v_proj], or choose another model.",
    )


def matches(key: str, name: str) -> bool:
    """Whether a layer's full name is meant by a name in a spec, as PEFT matches it."""
    return key == name or key.endswith(f".{name}")


def _names_weight(model: Any, name: str) -> bool:
    """Whether a name is one that transformers 5 joined into a weight of all experts at once."""
    try:
        from peft.utils import transformers_weight_conversion as joined

        patterns = joined._MODEL_TO_CONVERSION_PATTERN  # noqa: SLF001  (PEFT asks it by itself)
        family = patterns.get(model.config.model_type)
        return name.rsplit(".", 1)[-1] in joined._MOE_TARGET_MODULE_MAPPING.get(family, {})  # noqa: SLF001
    except (ImportError, AttributeError):
        return False


def _is_linear(module: Any) -> bool:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def _is_odd_linear(module: Any) -> bool:
    """Whether a layer is a linear one with a forward pass that PEFT's wrapper would not keep."""
    if not _is_linear(module):
        return False
    home = type(module).__module__
    return not home.startswith(("torch.nn.", "bitsandbytes.", "transformers.pytorch_utils"))


def _refusal(found: str, message: str, *, hint: str) -> ModelError:
    return ModelError([Problem(field=_FIELD, found=found, message=message, hint=hint)])
