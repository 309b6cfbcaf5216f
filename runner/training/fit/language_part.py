"""Language part of a model that also reads pictures: loaded with the whole, then taken out of it.

The whole model is loaded by its own class, so every layout of weight files that transformers knows
is read, and nothing is made up: a weight that is missing refuses the model. The class for text
alone then gets the very same layers. Before anything is trained, both answer a few tokens, and
where one number differs the model is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.contract.model_kind import LanguagePart, language_part
from runner.errors import ModelError, Problem

_TOKENS = 16  # enough that every layer has something to attend to
_ROUNDING = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 5e-3}
"""Relative to the largest logit. The same layers give the same bits, but for kernels that add in
another order each time; what differs by design (a scale, a cap, a layer) is off by far more."""
_HANDED_ON = (
    "hf_quantizer",
    "hf_device_map",
    "is_loaded_in_4bit",
    "is_loaded_in_8bit",
    "is_quantized",
    "quantization_method",
    "name_or_path",
)
"""What transformers writes on a model that it loads, and PEFT, TRL and accelerate read there."""


def part_of(config: Any) -> LanguagePart | None:
    """Give the language part that a loaded config's model has beside one for pictures."""
    return language_part({**config.to_dict(), "architectures": config.architectures})


def class_of_whole(config: Any) -> Any:
    """Give the class of a model that also reads pictures, as its config names it.

    Raises:
        ModelError: this transformers has no such class.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    kind = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    if kind is None or kind.__name__ not in (config.architectures or ()):
        raise _refusal(config, "it is of another kind than its config.json says")
    return kind


def class_of_text(config: Any) -> Any:
    """Give the class for the language part alone.

    Raises:
        ModelError: transformers has none.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config.get_text_config()), None)
    if kind is None:
        raise _refusal(config, "transformers has no class for it")
    return kind


def take_out(whole: Any, part: LanguagePart) -> Any:
    """Give the language part of a model: the same layers, under the class for text alone.

    Raises:
        ModelError: the class for text is made of other layers.
    """
    import torch

    kind = class_of_text(whole.config)
    with torch.device("meta"):  # its own layers are thrown away at once
        text = kind(whole.config.get_text_config())
    backbone = whole.get_submodule(part.path)
    if type(text.get_submodule(part.own_path)) is not type(backbone):
        raise _refusal(whole.config, "the class for it is made of other layers")
    text.set_submodule(part.own_path, backbone)
    text.set_output_embeddings(whole.get_output_embeddings())
    left = [name for name, weight in text.named_parameters() if weight.is_meta]
    if left and not any(weight.is_meta for weight in whole.parameters()):
        raise _refusal(whole.config, f"the whole model has no {left[0]}")
    for name in _HANDED_ON:
        if hasattr(whole, name):
            setattr(text, name, getattr(whole, name))
    text.generation_config = whole.generation_config
    return text.train(whole.training)


def require_same_answers(whole: Any, text: Any) -> None:
    """Refuse a language part that answers a text otherwise than the whole model does.

    Raises:
        ModelError: their logits differ.
    """
    import torch

    words = text.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(1, _TOKENS + 1, device=text.device)[None] * 7919) % min(words, 10_000)
    was_training = whole.training
    whole.eval()
    text.eval()
    try:
        with torch.no_grad():
            wanted = whole(input_ids=ids, use_cache=False).logits.float()
            found = text(input_ids=ids, use_cache=False).logits.float()
    finally:
        whole.train(was_training)
        text.train(was_training)
    rounding = _ROUNDING[str(whole.dtype).removeprefix("torch.")]
    if not (found - wanted).abs().max() <= rounding * wanted.abs().max():
        raise _refusal(whole.config, "alone it answers with other numbers than the whole model")


def require_all_weights(folder: Path, missing: Any) -> None:
    """Refuse weight files that leave out weights: transformers would draw them at random.

    Raises:
        ModelError: with the first that is missing.
    """
    if missing:
        first = min(missing)
        problem = Problem(
            field="model",
            found=folder.name,
            message=f"the weight files lack {len(missing)} of the model's weights, {first} first",
            hint="Fetch it again, or choose another model.",
        )
        raise ModelError([problem])


def _refusal(config: Any, why: str) -> ModelError:
    name = next(iter(config.architectures or ()), type(config).__name__)
    what = f"this model also reads pictures ({name}), and its language part cannot be trained"
    problem = Problem(
        field="model",
        message=f"{what} by itself: {why}",
        hint="Choose a text model, such as one whose name ends in -Instruct and not in -VL.",
    )
    return ModelError([problem])
