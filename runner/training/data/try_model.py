"""Try the model without its weights: what train could not do, and what it would train.

Config, code, layers and adapter are put together on torch's meta device, which holds shapes and no
numbers: seconds and a few hundred MB, whatever the model's size. It runs in prepare, beside the
training of another job, after the rows were found to be right.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.contract.model_kind import language_part
from runner.contract.models import read_config
from runner.errors import ModelError, Problem
from runner.spec.spec import JobSpec
from runner.training.export.adapter_weights import in_whole
from runner.training.export.refuse_early import Layers
from runner.training.import_stack import TRIES, import_stack


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What a model without weights tells exactly."""

    trainable_parameters: int
    embedding_rows: int
    """Token ids from here on have no row in the model's table of words."""
    plain_because: str | None
    """What the fast path does not know of this model; None: nothing that shows without weights."""
    layers: Layers
    """What the adapter changes."""


def try_model(
    folder: Path, spec: JobSpec, *, longest: int, trust_remote_code: bool = False
) -> Tried:
    """Build model and adapter as the train stage will, without weights.

    Raises:
        ModelError: the train stage would fail on this model, or on these layers.
    """
    # What libraries warn of here, they warn of again in train.log, where the model is loaded.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _try(folder, spec, longest, trust_remote_code=trust_remote_code)


def _try(folder: Path, spec: JobSpec, longest: int, *, trust_remote_code: bool) -> Tried:
    import_stack("torch", *TRIES)
    import torch

    from runner.training.fit.base_config import training_config
    from runner.training.fit.model import add_adapter
    from runner.training.kernels.recognise import obstacle

    config = training_config(folder, trust_remote_code=trust_remote_code)
    model = _skeleton(folder, config, trust_remote_code=trust_remote_code)
    rows = int(model.get_input_embeddings().weight.shape[0])
    with torch.device("meta"):  # PEFT draws an adapter's first weights where nobody says otherwise
        adapted = add_adapter(model, spec)
    trainable = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    because = obstacle(adapted, longest=longest)
    return Tried(
        trainable_parameters=trainable,
        embedding_rows=rows,
        plain_because=because,
        layers=_layers(adapted, folder, spec),
    )


def _layers(adapted: Any, folder: Path, spec: JobSpec) -> Layers:
    """List the weights that the adapter changes, under their names in the whole model."""
    part = language_part(read_config(folder, spec.model))
    a, b = ".lora_A.default.weight", ".lora_B.default.weight"
    sides: dict[str, dict[str, int]] = {}
    for key, weight in adapted.named_parameters():
        for end, side in ((a, 1), (b, 0)):
            if key.endswith(end):
                name = key.removesuffix(end)
                whole = in_whole(name, part) if part else name
                at = f"{whole.removeprefix('base_model.model.')}.weight"
                sides.setdefault(at, {})[end] = int(weight.shape[side])
    return Layers(
        shapes={name: (found[b], found[a]) for name, found in sides.items() if len(found) == 2},
        other_way_round=bool(adapted.peft_config["default"].fan_in_fan_out),
    )


def require_known_tokens(highest: int, tried: Tried, *, model: str) -> None:
    """Refuse token ids without a row in the model: a tokenizer that grew beside an older model.

    Raises:
        ModelError: the rows hold such an id.
    """
    if highest < tried.embedding_rows:
        return
    what = (
        f"the tokenizer writes token {highest}, but the model knows {tried.embedding_rows} tokens "
        f"(0 to {tried.embedding_rows - 1}): tokenizer and model do not belong together"
    )
    hint = "Fetch the model again, or choose the version whose tokenizer and weights match."
    raise ModelError([Problem(field="model", found=model, message=what, hint=hint)])


def _skeleton(folder: Path, config: Any, *, trust_remote_code: bool) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    from runner.training.fit.base_config import attention_of, unusable
    from runner.training.fit.language_part import class_of_whole, part_of, take_out

    part = part_of(config)
    try:
        attention = attention_of(config, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            if part is not None:
                kind = class_of_whole(config)
                return take_out(kind._from_config(config, attn_implementation=attention), part)  # noqa: SLF001
            return AutoModelForCausalLM.from_config(
                config, attn_implementation=attention, trust_remote_code=trust_remote_code
            )
    except ModelError:
        raise
    # Whatever a family's own code raises about its config: no row of data has come near it.
    except Exception as error:
        raise unusable(folder, error) from error
