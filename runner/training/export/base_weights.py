"""Base weights: what their files hold, and whether an adapter can be added to them.

Only the headers of the files are read: names, number formats and shapes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.contract.evaluation import Form
from runner.contract.models import read_config, weight_files
from runner.errors import RunnerError

SIDE_BY_SIDE = "Serve base and adapter side by side: adapter/README.md shows how."
FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1}
WIDTH |= {"BOOL": 1}
_FP32_COPIES = 4
"""Copies of the largest changed tensor in fp32 at a time: it, its unpacked self, the change, the
sum (measured: 3.4 on SmolLM2's)."""

WAYS: dict[str, tuple[Form, ...]] = {"qlora": ("original", "as_trained"), "lora": ("original",)}
"""Into which bases is merged, by method; in 16 bits there is one only."""


class NotMergeableError(RunnerError):
    """Base and adapter cannot become one model here."""

    kind = "not_mergeable"


@dataclass(frozen=True, kw_only=True)
class BaseWeights:
    """The base model's weights, without their numbers."""

    files: tuple[Path, ...]
    headers: Mapping[str, dict[str, Any]]
    """By file name: each tensor's dtype, shape and place."""
    dtype: str
    """In which merged weights are written: the base's own 16 bits, or bf16."""
    main: str
    """The dtype that most of the base is in, as safetensors spells it."""
    bytes: int
    """Of merged weights."""
    is_tied: bool
    """The table of words and the head are the same tensor."""

    @property
    def tensors(self) -> dict[str, Any]:
        """All tensors by name."""
        return {key: one for header in self.headers.values() for key, one in header.items()}

    def host_bytes(self, changed: Collection[str]) -> int:
        """Give the host memory that a merge needs beside the libraries': the largest tensor's."""
        sizes = [
            numbers(tensor["shape"]) * 4 * (_FP32_COPIES if name in changed else 1)
            for name, tensor in self.tensors.items()
        ]
        return max(sizes, default=0)


def read_base(base: Path, name: str) -> BaseWeights:
    """Read what a base's files hold, and refuse weights that cannot take an adapter up.

    Args:
        base: the base model's folder.
        name: its name, for messages.

    Raises:
        NotMergeableError: what stands in the way.
        ModelError: the base is not whole.
    """
    config = read_config(base, name)
    if config.get("quantization_config"):
        raise NotMergeableError(
            f"the base model {name} is itself quantised: its weights cannot take an adapter up",
            advice="Serve base and adapter side by side, or train on the unquantised model.",
        )
    files = tuple(weight_files(base, name))
    headers = {path.name: _header(path) for path in files}
    there = [tensor for header in headers.values() for tensor in header.values()]
    sizes: dict[str, int] = {}
    for tensor in there:
        sizes[tensor["dtype"]] = sizes.get(tensor["dtype"], 0) + numbers(tensor["shape"])
    main = max(sizes, key=lambda kind: sizes[kind])
    if main not in FLOATS or set(sizes) - set(WIDTH):
        odd = sorted(set(sizes) - set(WIDTH)) or [main]
        raise NotMergeableError(
            f"the base model's weights are stored as {odd[0]}, not in 16 bits",
            advice=SIDE_BY_SIDE,
        )
    return BaseWeights(
        files=files,
        headers=headers,
        dtype=FLOATS[main] if main != "F32" else "bfloat16",
        main=main,
        bytes=sum(
            numbers(tensor["shape"]) * (2 if tensor["dtype"] == main else WIDTH[tensor["dtype"]])
            for tensor in there
        ),
        is_tied=ties_words(config),
    )


def ties_words(config: Mapping[str, Any]) -> bool:
    """Whether the table of words and the head are the same tensor, as config.json says."""
    text = config.get("text_config")
    text = text if isinstance(text, dict) else {}
    return bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", True)))


def require_places(shapes: Mapping[str, Sequence[int]], base: BaseWeights) -> None:
    """Refuse an adapter that has a part for a weight that the base's files do not show.

    Args:
        shapes: of the weights that it changes, by their names.
        base: of `read_base`.

    Raises:
        NotMergeableError: which weight.
    """
    there = base.tensors
    for name, shape in shapes.items():
        if base.is_tied and name.endswith(("lm_head.weight", "embed_tokens.weight")):
            raise NotMergeableError(
                f"the adapter changes {name}, and in this model the table of words and the head "
                "are the same tensor: merged, both would change",
                advice="Train without it: lora.target_modules: all-linear leaves it out.",
            )
        if name not in there:
            raise NotMergeableError(
                f"the base model's files have no weight {name}, which the adapter changes",
                advice=SIDE_BY_SIDE,
            )
        if list(there[name]["shape"]) != list(shape):
            raise NotMergeableError(
                f"{name} has the shape {there[name]['shape']} in the base model's files, and the "
                f"adapter was trained on {list(shape)}",
                advice=SIDE_BY_SIDE,
            )


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        found: dict[str, Any] = json.loads(file.read(length))
    found.pop("__metadata__", None)
    # In the order of the file: it is read once, from its start to its end.
    return dict(sorted(found.items(), key=lambda item: item[1]["data_offsets"][0]))


def numbers(shape: Sequence[int]) -> int:
    """Count the numbers of a tensor."""
    total = 1
    for side in shape:
        total *= side
    return total
