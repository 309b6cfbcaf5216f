"""Adapter changes: what an adapter adds to which weight of its base, or why that is not said.

Only plain LoRA and rsLoRA are additions to weights; every other kind is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.training.export.adapter_config import ALWAYS, DEFAULTS
from runner.training.export.base_weights import SIDE_BY_SIDE, BaseWeights, NotMergeableError
from runner.words import visible

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_REFUSED: Mapping[str, str] = {
    "use_dora": "DoRA",
    "modules_to_save": "modules_to_save (layers trained as a whole)",
    "lora_bias": "a bias in the adapter (lora_bias)",
    "target_parameters": "target_parameters (experts kept in one tensor)",
    "alpha_pattern": "alpha_pattern",
    "rank_pattern": "rank_pattern",
    "layer_replication": "layer_replication",
    "trainable_token_indices": "trained tokens (trainable_token_indices)",
    "fan_in_fan_out": "layers stored the other way round (GPT-2's Conv1D)",
    "alora_invocation_tokens": "aLoRA, which works from some token on",
}
"""What PEFT can train and this merge cannot put into a base: said by name, never left out."""
_PLAIN = {*ALWAYS, "use_rslora", "init_lora_weights", "peft_version", "revision", "auto_mapping"}
_PLAIN |= {"exclude_modules", "layers_to_transform", "layers_pattern"}
"""Keys of adapter_config.json that say nothing which a merge would have to do otherwise."""
_STARTS = (True, False, "gaussian")
"""Ways to begin an adapter that leave the base as it is: others (PiSSA, OLoRA) change it, too."""
_COPY = ".base_layer.weight"
"""PEFT saves the base's own weight beside an adapter on a head (`save_embedding_layers`)."""
_HALVES = ("lora_A", "lora_B")
_TAKE_BACK = "Take a backup of adapter/ back."
_PEFT = "base_model.model."  # how each name in an adapter of PEFT begins


@dataclass(frozen=True, kw_only=True)
class Change:
    """What an adapter adds to one weight: ``B @ A`` times the scale."""

    a: Any
    b: Any
    scale: float


def _config_of(adapter: Path) -> dict[str, Any]:
    """Read adapter_config.json.

    Raises:
        NotMergeableError: it is none, or says neither rank nor scale.
    """
    try:
        config = json.loads((adapter / CONFIG).read_bytes())
        usable = int(config["r"]) == config["r"] > 0 and float(config["lora_alpha"]) > 0
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        usable = False
    if not usable:
        raise NotMergeableError(
            f"adapter/{CONFIG} cannot be read, or does not say r and lora_alpha",
            advice=_TAKE_BACK,
        )
    return dict(config)


def adapter_changes(adapter: Path) -> dict[str, Change]:
    """Read an adapter: what it adds to which weight.

    Raises:
        NotMergeableError: it holds something else than plain LoRA.
    """
    config = _config_of(adapter)
    _require_plain(config)
    rank, alpha = config["r"], config["lora_alpha"]
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    halves = _halves(adapter)
    for name, pair in halves.items():
        if len(pair) != len(_HALVES) or any(one.dim() != 2 for one in pair.values()):
            raise NotMergeableError(
                f"the adapter's part for {name} is not a pair of matrices", advice=SIDE_BY_SIDE
            )
        if {pair["lora_A"].shape[0], pair["lora_B"].shape[1]} != {rank}:
            raise NotMergeableError(
                f"the adapter's part for {name} is not of rank {rank}, by which "
                f"{CONFIG} has it scaled",
                advice=_TAKE_BACK,
            )
    return {
        f"{name}.weight": Change(a=pair["lora_A"], b=pair["lora_B"], scale=scale)
        for name, pair in halves.items()
    }


def _require_plain(config: dict[str, Any]) -> None:
    """Refuse by name what is not added to weights as LoRA is.

    Raises:
        NotMergeableError: what it is.
    """
    for key, value in config.items():
        if key in _REFUSED and value:
            what = _REFUSED[key]
        elif value and key not in _PLAIN and value != DEFAULTS.get(key):
            what = visible(key)
        elif key == "init_lora_weights" and value not in _STARTS:
            what = f"{visible(value)} ({key}), which changes its base as well,"
        elif key == "bias" and value != "none":
            what = "trained biases"
        else:
            continue
        raise NotMergeableError(
            f"this adapter uses {what} and is not merged here", advice=SIDE_BY_SIDE
        )


def _halves(adapter: Path) -> dict[str, dict[str, Any]]:
    """Read A and B of each layer, by its name.

    Raises:
        NotMergeableError: the file is damaged, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    halves: dict[str, dict[str, Any]] = {}
    try:
        with safe_open(adapter / WEIGHTS, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118  (it is no dict)
                name = key.removeprefix(_PEFT)
                if name.endswith(_COPY):  # of `require_copies`
                    continue
                of, _, half = name.removesuffix(".weight").rpartition(".")
                if half not in _HALVES:
                    raise NotMergeableError(
                        f"this adapter holds {visible(name)}, which is no part of a LoRA",
                        advice=SIDE_BY_SIDE,
                    )
                halves.setdefault(of, {})[half] = tensors.get_tensor(key)
    except (SafetensorError, FileNotFoundError):
        raise NotMergeableError(
            f"adapter/{WEIGHTS} is gone or damaged", advice=_TAKE_BACK
        ) from None
    return halves


def require_copies(adapter: Path, base: BaseWeights) -> None:
    """Refuse an adapter whose copy of a base's weight is another one: PEFT would load that.

    Raises:
        NotMergeableError: which weight.
    """
    import torch
    from safetensors import safe_open

    files = {name: file for file in base.files for name in base.headers[file.name]}
    with safe_open(adapter / WEIGHTS, framework="pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118  (it is no dict)
            if not key.endswith(_COPY):
                continue
            name = f"{key.removeprefix(_PEFT).removesuffix(_COPY)}.weight"
            copy = tensors.get_tensor(key)
            is_same = False
            if name in files:
                with safe_open(files[name], framework="pt") as own:
                    is_same = torch.equal(own.get_tensor(name).to(copy.dtype), copy)
            if not is_same:
                raise NotMergeableError(
                    f"the adapter brings a {visible(name)} that is not the base model's",
                    advice=SIDE_BY_SIDE,
                )
