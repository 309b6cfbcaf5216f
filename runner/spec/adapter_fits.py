"""Adapter fits: whether a run can go on from another's adapter: its base model and its shape."""

from __future__ import annotations

import json
from typing import Any

from runner.contract.layout import RunFolder
from runner.contract.record import ModelFacts, read_record
from runner.errors import RunnerError
from runner.files.plain import read_plain
from runner.files.unreadable import require_storage
from runner.spec.spec import JobSpec

_CONFIG_BYTES = 1024 * 1024  # PEFT's adapter_config.json has a few hundred


def other_base(run: RunFolder, model: ModelFacts) -> str | None:
    """Say how the base model that a run's adapter stands on differs; None: it does not.

    Raises:
        UnreadableError: nobody can say now.
    """
    try:
        other = read_record(run.record).model
    except (OSError, RunnerError) as error:
        require_storage(error, run.record)
        return "its record cannot be read"
    if other is None or (other.id, other.sha256) == (model.id, model.sha256):
        return None
    return f"it stands on the base model {other.id}, and this run on {model.id}"


def other_shape(run: RunFolder, spec: JobSpec) -> str | None:
    """Compare what adapter_config.json says with the spec; names of layers where both list them.

    Raises:
        UnreadableError: nobody can say now.
    """
    path = run.adapter / "adapter_config.json"
    try:
        content = read_plain(path, limit_bytes=_CONFIG_BYTES)
        config: dict[str, Any] = dict(json.loads(content))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        require_storage(error, path)
        return "its adapter is gone, or its adapter_config.json cannot be read"
    wanted: dict[str, Any] = {
        "r": spec.lora.r,
        "lora_alpha": spec.lora.alpha,
        "use_rslora": spec.lora.use_rslora,
    }
    there = {name: config.get(name, False) for name in wanted}
    modules = config.get("target_modules")
    if isinstance(modules, list) and isinstance(spec.lora.target_modules, list):
        wanted["target_modules"] = sorted(spec.lora.target_modules)
        there["target_modules"] = sorted(map(str, modules))
    differ = [name for name in wanted if wanted[name] != there[name]]
    if not differ:
        return None
    said = [f"{name} is {there[name]} there and {wanted[name]} here" for name in differ]
    return "; ".join(said)
