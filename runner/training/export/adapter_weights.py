"""Adapter weights: their names as the whole model has them, where its language part was trained.

A model that also reads pictures is used whole, in transformers as in vLLM, and there the layers of
its language part have longer names. Only the header of the safetensors file is written anew; the
numbers are copied as they are.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from runner.contract.model_kind import LanguagePart

_PEFT = "base_model.model."  # how each name in an adapter of PEFT begins
_LENGTH_BYTES = 8  # safetensors: the header's length, then the header, then the numbers
_ALIGNED = 8  # bytes; the numbers begin at a multiple of it


def copy_weights(source: Path, target: Path, part: LanguagePart | None) -> None:
    """Copy an adapter's weights, under the names that the model in use has.

    Args:
        source: adapter_model.safetensors as PEFT wrote it.
        target: a new file.
        part: where the base also reads pictures, its part that was trained.
    """
    if part is None:
        shutil.copyfile(source, target)
        return
    with source.open("rb") as old, target.open("wb") as new:
        length = int.from_bytes(old.read(_LENGTH_BYTES), "little")
        header = json.loads(old.read(length))
        renamed: dict[str, Any] = {in_whole(name, part): what for name, what in header.items()}
        text = json.dumps(renamed, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNED)
        new.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
        shutil.copyfileobj(old, new)


def in_whole(name: str, part: LanguagePart) -> str:
    """Give a weight's name in the whole model."""
    begins = f"{_PEFT}{part.own_path}."
    return f"{_PEFT}{part.path}.{name.removeprefix(begins)}" if name.startswith(begins) else name
