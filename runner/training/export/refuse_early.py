"""Refusals before a run: an export that this base, the disk or the machine's memory cannot take.

What can be known without a trained adapter is said before hours are spent on it. What may change
until then, such as what is free on the disk, is looked at when the export is made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import Problem
from runner.spec.spec import JobSpec
from runner.training.export.base_weights import (
    WAYS,
    BaseWeights,
    NotMergeableError,
    read_base,
    require_places,
    ties_words,
)
from runner.training.export.llama_convert import SHARE_OF_F16, TRIAL_BASE, forecast_bytes
from runner.training.export.makers import WHOLE
from runner.words import memory

_TABLES = ("lm_head", "embed_tokens")
_EMBEDDING = "embed_tokens"
_CONV1D = "layers stored the other way round (GPT-2's Conv1D)"


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What a fresh adapter of a spec would change."""

    shapes: Mapping[str, Sequence[int]]
    """Of the weights, by their names in the whole model."""
    other_way_round: bool
    """They are GPT-2's Conv1D."""


def refused_export(
    spec: JobSpec, base: Path, config: Mapping[str, Any], outputs: Path
) -> Problem | None:
    """Refuse merged weights and GGUF files that cannot be; None: they may.

    Args:
        spec: what is asked for; where its method is left to the box, the least of both is counted.
        base: the base model's folder.
        config: its config.json.
        outputs: a folder on the disk of the outputs.

    Raises:
        ModelError: the base is not whole.
    """
    if not spec.export.asks:
        return None
    if not spec.export.needs_merged:
        return _refused_adapter(spec, base, config, outputs)
    named = spec.lora.target_modules
    tables = [] if isinstance(named, str) else [one for one in named if one.endswith(_TABLES)]
    if words := [one for one in tables if one.endswith(_EMBEDDING)]:
        said = f"lora.target_modules names {words[0]}, the table of words, which is not merged here"
        return _problem(spec, said, "Write lora.target_modules: all-linear, which leaves it out.")
    if tables and ties_words(config):
        said = (
            f"lora.target_modules names {tables[0]}, and in this model the table of words and the "
            "head are the same tensor: merged, both would change"
        )
        return _problem(spec, said, "Write lora.target_modules: all-linear, which leaves it out.")
    try:
        weights = read_base(base, spec.model)
    except NotMergeableError as error:
        return _problem(spec, error.message)
    return short_of_disk(spec, weights.bytes, _whole_disk(outputs)) or short_of_memory(
        spec, weights, _whole_memory()
    )


def _refused_adapter(
    spec: JobSpec, base: Path, config: Mapping[str, Any], outputs: Path
) -> Problem | None:
    """Refuse an adapter as a GGUF file alone: it is tried on a base that is made for that."""
    if config.get("quantization_config"):
        said = (
            f"the base model {spec.model} is itself quantised: llama.cpp makes no base of it in "
            "which a GGUF adapter could be tried"
        )
        return _problem(spec, said)
    whole = forecast_bytes(base, spec.model, WHOLE)
    return short_of_disk(spec, whole, _whole_disk(outputs))


def refused_layers(spec: JobSpec, base: Path, layers: Layers) -> Problem | None:
    """Refuse a merge of an adapter whose layers the base's files do not show; None: it may be.

    Raises:
        ModelError: the base is not whole.
    """
    if not spec.export.needs_merged:
        return None
    if layers.other_way_round:
        return _problem(spec, f"this model has {_CONV1D}, which are not merged here")
    try:
        require_places(layers.shapes, read_base(base, spec.model))
    except NotMergeableError as error:
        return _problem(spec, error.message)
    return None


def needed_disk(spec: JobSpec, merged_bytes: int) -> int:
    """Say what the disk must hold at a time: each way of merging, or one and the GGUF files.

    A GGUF adapter comes last; the base that it is tried on lies beside what was made before.

    Args:
        spec: what is asked for.
        merged_bytes: of the model in 16 bits.
    """
    wish, share = spec.export, SHARE_OF_F16
    ways = len(WAYS.get(spec.method, WAYS["lora"])) if wish.needs_merged else 0
    forms = {WHOLE, *wish.gguf} if wish.gguf else set()
    made = wish.needs_merged + sum(share[one] for one in forms)
    tried = share[WHOLE] + share[TRIAL_BASE] if wish.adapter_gguf else 0.0
    return round(merged_bytes * max(ways, made + tried))


def short_of_disk(spec: JobSpec, merged_bytes: int, whole_disk: int) -> Problem | None:
    """Refuse what the empty disk could not hold."""
    needed = needed_disk(spec, merged_bytes)
    if needed <= whole_disk:
        return None
    return _problem(
        spec,
        f"the export needs {memory(needed)} of disk (the model takes {memory(merged_bytes)} in 16 "
        f"bits), and the whole disk of outputs/ has {memory(whole_disk)}",
        "Give outputs/ a larger disk, or ask for fewer formats.",
    )


def short_of_memory(spec: JobSpec, weights: BaseWeights, whole_memory: int) -> Problem | None:
    """Refuse a merge whose largest tensor the whole of the machine's memory could not hold."""
    needed = weights.host_bytes(())  # less than it takes: which tensors change is not known yet
    if needed <= whole_memory:
        return None
    return _problem(
        spec,
        f"the model's largest tensor takes {memory(needed)} of the machine's own memory while it "
        f"is merged, and the machine has {memory(whole_memory)}",
    )


def _problem(spec: JobSpec, said: str, hint: str = "") -> Problem:
    field = "export.merged" if spec.export.merged else str(spec.export.gguf_field)
    out = f"leave {field} out: adapter/ is served beside its base."
    return Problem(field=field, message=said, hint=f"{hint} Or {out}" if hint else f"L{out[1:]}")


def _whole_disk(outputs: Path) -> int:
    there = next(folder for folder in (outputs, *outputs.parents) if folder.is_dir())
    return shutil.disk_usage(there).total


def _whole_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
