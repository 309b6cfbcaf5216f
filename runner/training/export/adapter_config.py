"""adapter_config.json: what older readers of an adapter know, and nothing at its default."""

from __future__ import annotations

import re
from typing import Any

from runner.contract.model_kind import LanguagePart

ALWAYS = ("peft_type", "task_type", "base_model_name_or_path", "inference_mode", "r", "lora_alpha",
          "lora_dropout", "target_modules", "bias")  # fmt: skip
"""Keys that readers other than PEFT look for (vLLM, llama.cpp, Ollama), at a default or not."""

DEFAULTS: dict[str, Any] = {
    "auto_mapping": None,
    "revision": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "use_rslora": False,
    "modules_to_save": None,
    "init_lora_weights": True,
    "layers_to_transform": None,
    "layers_pattern": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "trainable_token_indices": None,
    "loftq_config": {},
    "eva_config": None,
    "corda_config": None,
    "lora_ga_config": None,
    "use_dora": False,
    "velora_config": None,
    "alora_invocation_tokens": None,
    "use_qalora": False,
    "qalora_group_size": 16,
    "monteclora_config": None,
    "layer_replication": None,
    "lora_bias": False,
    "target_parameters": None,
    "use_bdlora": None,
    "arrow_config": None,
    "kasa_config": None,
    "ensure_weight_tying": False,
}
"""PEFT 0.21's own (a test compares them). PEFT before 0.14 refuses a file with a key that it does
not know, and most of these are younger."""

_WRITERS_OWN = ("peft_version",)  # says who wrote the file; PEFT before 0.18 does not know the key


def hand_over_config(
    config: dict[str, Any], *, base: str, part: LanguagePart | None = None
) -> dict[str, Any]:
    """Make what PEFT wrote readable for PEFT 0.11 and for programs that are not PEFT.

    Args:
        config: adapter_config.json as PEFT wrote it.
        base: the base model's hub id, or its name under models/.
        part: where the base also reads pictures, its part that was trained.
    """
    kept = {
        key: value
        for key, value in config.items()
        if key in ALWAYS
        or (key not in _WRITERS_OWN and (key not in DEFAULTS or value != DEFAULTS[key]))
    }
    kept["base_model_name_or_path"] = base  # else a path on this box
    # Ollama reads alpha into a whole number and refuses 32.0.
    if "lora_alpha" in kept:
        kept["lora_alpha"] = _whole(kept["lora_alpha"])
    for key in ("alpha_pattern", "rank_pattern"):
        if key in kept:
            kept[key] = {name: _whole(value) for name, value in kept[key].items()}
    if isinstance(kept.get("target_modules"), list):
        kept["target_modules"] = sorted(kept["target_modules"])  # a set, in any order
        if part is not None:
            kept["target_modules"] = within(part, kept["target_modules"])
    return kept


def within(part: LanguagePart, names: list[str]) -> str:
    """Name layers of the language part alone, as the pattern that PEFT takes in a list's place.

    By their short names PEFT would also find layers of the part that reads pictures, and put
    adapters there that nobody trained.
    """
    short = [re.escape(name.removeprefix(f"{part.own_path}.")) for name in names]
    return rf"{re.escape(part.path)}\.(?:.+\.)?(?:{'|'.join(short)})"


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
