"""Config of a base model for training: its attention, no dropout or router loss of its own.

A LoRA run promises the same losses at any batch plan. What the base would add by chance (dropout,
noise at a router) or per pass (a router's balance loss) breaks that, so it is switched off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.errors import ModelError, Problem
from runner.training.fit.language_part import class_of_text, class_of_whole, part_of

_BALANCE = (
    "router_aux_loss_coef",
    "aux_loss_alpha",  # DeepSeek, Dots
    "router_z_loss_coef",
    "aux_loss_coef",
    "load_balancing_loss_coef",
    "moe_aux_loss_coeff",
    "aux_loss_weight",
)
"""What the weight of a router's balance loss is called. TRL adds it once a pass and counts padding:
gradients were off by up to 4e-2 and changed with the plan (measured)."""
_BALANCE_SWITCHES = ("output_router_logits", "use_aux_loss", "use_load_balancing_loss", "seq_aux")
_BY_CHANCE = ("drop", "jitter", "router_noise", "gate_noise", "noise_std")
"""Parts of the names of settings that draw at random in training."""
_NEVER_BY_CHANCE = ("drop_tokens", "drop_bos")  # switches that only sound so
_WRONG_WITH_SDPA = frozenset({"doge"})
"""Families that add to a mask which is not made where SDPA needs none: without padding, Doge of
transformers 5.17 sees the words it has to learn (5.23 makes the mask)."""


def training_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Read a model's config and switch off what would train something else than the rows.

    Raises:
        ModelError: the model needs code of its own and the box does not allow it, or a newer
            transformers.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    # Config classes raise what they like; only the model's own files were read.
    except Exception as error:
        raise unusable(folder, error) from error
    for part in _parts(config):
        _quieten(part)
    return config


def attention_of(config: Any, *, trust_remote_code: bool = False) -> str:
    """Choose torch's own fast attention (``sdpa``), or ``eager`` for models that have no other."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    own_code = trust_remote_code and "AutoModelForCausalLM" in (_auto_map(config) or {})
    if own_code:
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        name = _auto_map(config)["AutoModelForCausalLM"]
        kinds = [get_class_from_dynamic_module(name, config.name_or_path)]
    elif part_of(config) is not None:
        kinds = [class_of_whole(config), class_of_text(config)]
    else:
        kinds = [MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)]
    fast = all(getattr(kind, "_supports_sdpa", False) for kind in kinds)
    return "sdpa" if fast and config.model_type not in _WRONG_WITH_SDPA else "eager"


def unusable(folder: Path, error: BaseException) -> ModelError:
    """Turn what transformers says of a model's files into a refusal; it saw no row of data."""
    said = " ".join(str(error).split())
    if "trust_remote_code" in said:
        message = "this model brings program code of its own, and this box does not run such code"
        hint = (
            "Choose a model that transformers knows by itself, or let the box's owner switch on "
            "RUNNER_TRUST_REMOTE_CODE."
        )
    elif "does not recognize this architecture" in said:
        message = "this model is of a newer kind than this version of the runner knows"
        hint = "Choose another model, or update the runner."
    else:
        message = f"this model cannot be loaded: {said[:300]}"
        hint = "Fetch it again, or choose another model."
    return ModelError([Problem(field="model", found=folder.name, message=message, hint=hint)])


def _auto_map(config: Any) -> Any:
    return getattr(config, "auto_map", None)


def _parts(config: Any) -> list[Any]:
    """Give the config, its text part, and configs within it (MPT's attention has one)."""
    inner = [value for value in vars(config).values() if hasattr(value, "to_dict")]
    dicts = [value for value in vars(config).values() if isinstance(value, dict)]
    text = config.get_text_config()
    return [config, *([text] if text is not config else []), *inner, *dicts]


def _quieten(part: Any) -> None:
    settings = part if isinstance(part, dict) else {**part.to_dict(), **vars(part)}
    for name, value in list(settings.items()):
        if name in _BALANCE and _positive(value):
            _put(part, name, 0.0)
        elif name in _BALANCE_SWITCHES and value is True:
            _put(part, name, False)
        elif _positive(value) and _draws(name):
            _put(part, name, type(value)(0))


def _draws(name: str) -> bool:
    return any(word in name for word in _BY_CHANCE) and name not in _NEVER_BY_CHANCE


def _positive(value: Any) -> bool:
    return isinstance(value, float) and value > 0


def _put(part: Any, name: str, value: Any) -> None:
    if isinstance(part, dict):
        part[name] = value
    else:
        setattr(part, name, value)
