"""Merge: base model and adapter become one model in 16 bits, tensor by tensor.

Memory does not grow with the model: one tensor is read, changed and written before the next. The
base is either the original, or as `qlora` trained on it: packed to NF4 by bitsandbytes and unpacked
again, so that what the adapter learned to correct is still there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.training.export.adapter_changes import (
    CONFIG,
    WEIGHTS,
    Change,
    adapter_changes,
    require_copies,
)
from runner.training.export.base_weights import (
    FLOATS,
    WIDTH,
    BaseWeights,
    NotMergeableError,
    numbers,
    read_base,
    require_places,
)
from runner.words import memory

_INDEX = "model.safetensors.index.json"
_NOT_COPIED = (CONFIG, WEIGHTS, "README.md")
_OF_BASE = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""Files by which a base that also reads pictures takes them in."""
_SHARD_ENDING = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Merge:
    """What is to be written, known before a byte is."""

    base: Path
    adapter: Path
    weights: BaseWeights
    changes: Mapping[str, Change]
    """By the weight's name."""

    @property
    def bytes(self) -> int:
        """Of what is written."""
        return self.weights.bytes

    @property
    def host_bytes(self) -> int:
        """The host memory that is needed beside the libraries': the largest tensor at work."""
        return self.weights.host_bytes(self.changes)


def plan_merge(base: Path, adapter: Path, *, name: str) -> Merge:
    """Read what there is of base and adapter, and refuse by name what cannot be merged.

    Args:
        base: the base model's folder.
        adapter: the run's adapter/.
        name: the base model's name, for messages.

    Raises:
        NotMergeableError: what stands in the way.
        ModelError: the base is not whole.
    """
    weights = read_base(base, name)
    changes = adapter_changes(adapter)
    require_copies(adapter, weights)
    shapes = {name: [change.b.shape[0], change.a.shape[1]] for name, change in changes.items()}
    require_places(shapes, weights)
    return Merge(base=base, adapter=adapter, weights=weights, changes=changes)


def merge(plan: Merge, target: Path, *, nf4: frozenset[str], compute: str, device: str) -> None:
    """Write the merged model into an empty folder.

    Args:
        plan: of `plan_merge`.
        target: the folder.
        nf4: names of the weights that are packed to NF4 and unpacked before the adapter is added:
            those that `qlora` trained on so; empty: into the original.
        compute: the number format that training computed in; NF4 is packed from it.
        device: where that is done.

    Raises:
        NotMergeableError: a changed weight holds values that are no numbers (NaN, infinite).
    """
    places: dict[str, str] = {}
    for path in plan.weights.files:
        name = path.name if path.name.endswith(_SHARD_ENDING) else f"{path.stem}{_SHARD_ENDING}"
        _write_shard(plan, path, target / name, nf4=nf4, compute=compute, device=device)
        places |= dict.fromkeys(plan.weights.headers[path.name], name)
    if len(plan.weights.files) > 1:
        index = {"metadata": {"total_size": plan.bytes}, "weight_map": places}
        (target / _INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    for path in sorted(plan.adapter.iterdir()):
        if path.name not in _NOT_COPIED and path.is_file():
            shutil.copyfile(path, target / path.name)
    code = [path.name for path in plan.base.glob("*.py")]
    for name in (*_OF_BASE, *code):
        if (plan.base / name).is_file() and not (target / name).exists():
            shutil.copyfile(plan.base / name, target / name)
    config = json.loads((plan.base / "config.json").read_bytes())
    text = json.dumps(_config(config, plan.weights.dtype), indent=2) + "\n"
    (target / "config.json").write_text(text, encoding="utf-8")


def _config(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Give the base's config with the number format of what was written."""
    found = {key: value for key, value in config.items() if key != "quantization_config"}
    # transformers before 4.56 reads torch_dtype alone, 5 reads both.
    names = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    found |= dict.fromkeys(names, dtype)
    for key, part in config.items():
        if isinstance(part, dict) and ("dtype" in part or "torch_dtype" in part):
            found[key] = _config(part, dtype)
    return found


def _write_shard(
    plan: Merge, path: Path, target: Path, *, nf4: frozenset[str], compute: str, device: str
) -> None:
    """Write one file: its header first, for every size is known, then tensor after tensor."""
    import torch
    from safetensors import safe_open

    header, at = {}, 0
    ours = {dtype: kind for kind, dtype in FLOATS.items()}[plan.weights.dtype]
    for name, tensor in plan.weights.headers[path.name].items():
        kind = ours if tensor["dtype"] == plan.weights.main else tensor["dtype"]
        end = at + numbers(tensor["shape"]) * WIDTH[kind]
        header[name] = {"dtype": kind, "shape": tensor["shape"], "data_offsets": [at, end]}
        at = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)  # safetensors' own files start their data at a multiple of 8
    with target.open("wb") as file, safe_open(path, framework="pt") as tensors:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in header:
            weight = tensors.get_tensor(name)
            if name in plan.changes or name in nf4:
                weight = _changed(weight, plan.changes.get(name), name in nf4, compute, device)
            if plan.weights.headers[path.name][name]["dtype"] == plan.weights.main:
                weight = weight.to(getattr(torch, plan.weights.dtype))
            if name in plan.changes and not bool(torch.isfinite(weight).all()):
                raise NotMergeableError(
                    f"with the adapter added, {name} holds values that are no numbers, or none "
                    f"that {plan.weights.dtype} can hold",
                    advice="If adapter/ is damaged, take a backup of it back, or train again.",
                )
            flat = weight.contiguous().reshape(-1).view(torch.uint8)
            file.write(flat.numpy().data)
            del weight, flat


def _changed(weight: Any, change: Change | None, packs: bool, compute: str, device: str) -> Any:  # noqa: FBT001
    """Add an adapter's part to a weight, in fp32."""
    import torch

    weight = weight.to(device)
    if packs:
        import bitsandbytes.functional as bnb

        packed, state = bnb.quantize_4bit(
            weight.to(getattr(torch, compute)).contiguous(),
            blocksize=64,
            compress_statistics=True,
            quant_type="nf4",
        )
        weight = bnb.dequantize_4bit(packed, state)
    weight = weight.float()
    if change is not None:
        part = change.b.to(device).float() @ change.a.to(device).float()
        weight += part.mul_(change.scale)
    return weight.cpu()


def require_room(plan: Merge, *, ways: int, free_bytes: int, leave_bytes: int) -> None:
    """Refuse a merge that the disk cannot hold, before a byte is written.

    Raises:
        NotMergeableError: with the numbers.
    """
    needed = ways * plan.bytes
    if free_bytes - leave_bytes >= needed:
        return
    each = f"{ways} × {memory(plan.bytes)}" if ways > 1 else memory(plan.bytes)
    raise NotMergeableError(
        f"merged weights need {each} of disk while they are made, and outputs/ has "
        f"{memory(max(0, free_bytes - leave_bytes))} beside its reserve",
        advice="Make some room, then ask again.",
    )


def require_memory(plan: Merge, *, available_bytes: int | None) -> None:
    """Refuse a merge whose largest tensor the host's memory cannot hold.

    Raises:
        NotMergeableError: with the numbers.
    """
    if available_bytes is None or available_bytes >= plan.host_bytes:
        return
    raise NotMergeableError(
        f"the largest tensor takes {memory(plan.host_bytes)} of the machine's own memory while "
        f"it is merged, and {memory(available_bytes)} are free",
        advice="Close other programs, then ask again.",
    )
