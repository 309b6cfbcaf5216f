"""Kind of base model: what its config.json says that rules out training here, in plain words.

No torch: `runner validate` asks this, and so do the doctor and the fetch command.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runner.errors import Problem
from runner.words import visible

Method = Literal["qlora", "lora"]

_CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel")
"""Of classes that write on from left to right; GPT-2's is called GPT2LMHeadModel."""
_ALSO_CAUSAL = frozenset({"QWenLMHeadModel", "XGLMForCausalLM", "RwkvForCausalLM"})

_BOTH_SIDES = frozenset(
    {
        "albert",
        "bert",
        "bert-generation",
        "big_bird",
        "camembert",
        "data2vec-text",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "ernie",
        "megatron-bert",
        "modernbert",
        "mpnet",
        "nomic_bert",
        "rembert",
        "roberta",
        "roberta-prelayernorm",
        "roc_bert",
        "roformer",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)
"""Families that read a text from both sides unless ``is_decoder`` says otherwise. Some have a class
that ends in ForCausalLM; trained as it stands, each token would see the token it has to guess."""

_SEQ_TO_SEQ = (
    "T5",
    "MT5",
    "UMT5",
    "LongT5",
    "T5Gemma",
    "T5Gemma2",
    "SwitchTransformers",
    "Bart",
    "MBart",
    "MBart50",
    "PLBart",
    "Mvp",
    "Pegasus",
    "PegasusX",
    "BigBirdPegasus",
    "Blenderbot",
    "BlenderbotSmall",
    "LED",
    "M2M100",
    "NllbMoe",
    "FSMT",
    "ProphetNet",
    "XLMProphetNet",
)
"""Encoder-decoder families, as their ``…ForConditionalGeneration`` classes begin."""
_SEQ_TO_SEQ_ENDINGS = ("MTModel", "ForSeq2SeqLM", "EncoderDecoderModel")
_SOUND = (
    "Whisper",
    "Speech2Text",
    "SpeechT5",
    "SeamlessM4T",
    "Moonshine",
    "Voxtral",
    "Qwen2Audio",
    "GraniteSpeech",
    "AudioFlamingo3",
    "Bark",
    "Musicgen",
    "Csm",
    "Kyutai",
    "VibeVoice",
)
"""Families that hear or speak, as their classes begin."""
_PICTURE_CLASSES = (
    "Phi3V",
    "Phi4MM",
    "Phi4Multimodal",
    "Llava",
    "CogVLM",
    "Molmo",
    "Ovis",
    "Janus",
    "MultiModality",
    "MiniCPMV",
    "MiniCPMO",
    "InternVL",
    "DeepseekVL",
    "KimiVL",
    "Emu3",
    "Moondream",
    "Fuyu",
    "Florence2",
    "BlipForConditional",
    "Blip2",
    "Kosmos",
)
"""Classes of picture readers that do not end in ForConditionalGeneration."""
_PICTURE_KEYS = (
    "vision_config",
    "vision_tower",
    "mm_vision_tower",
    "img_processor",
    "visual",
    "vit_config",
)
_SOUND_KEYS = ("audio_config", "audio_encoder_config", "audio_processor", "speech_config")


@dataclass(frozen=True, kw_only=True)
class LanguagePart:
    """The part of a model that reads and writes text, where the model also reads pictures."""

    path: str
    """Its backbone within the whole model, as transformers names it there."""
    own_path: str = "model"
    """The same backbone within the class that holds the language part alone."""


_USUAL = LanguagePart(path="model.language_model")
LANGUAGE_PARTS = {
    "Gemma3ForConditionalGeneration": _USUAL,
    "Gemma4ForConditionalGeneration": _USUAL,
    "Gemma4UnifiedForConditionalGeneration": _USUAL,
    "Qwen3_5ForConditionalGeneration": _USUAL,
    "Qwen3_5MoeForConditionalGeneration": _USUAL,
    "Llama4ForConditionalGeneration": LanguagePart(path="language_model.model"),
    # Around a plain family's backbone: Mistral Small 3.1 and later, Ministral 3, Qwen, Llama.
    "Mistral3ForConditionalGeneration": _USUAL,
    "LlavaForConditionalGeneration": _USUAL,
    "LlavaNextForConditionalGeneration": _USUAL,
    "LlavaOnevisionForConditionalGeneration": _USUAL,
    "VipLlavaForConditionalGeneration": _USUAL,
    "InternVLForConditionalGeneration": _USUAL,
    "Lfm2VlForConditionalGeneration": _USUAL,
    "Idefics2ForConditionalGeneration": LanguagePart(path="model.text_model"),
    "Idefics3ForConditionalGeneration": LanguagePart(path="model.text_model"),
    "SmolVLMForConditionalGeneration": LanguagePart(path="model.text_model"),
}
"""Picture readers whose language part is trained by itself: transformers has a class for it whose
logits on text are the whole model's, number for number (tests/integration/test_language_part.py).
"""

_NO_LANGUAGE_PART = {
    "Mllama": "its layers between text and pictures cannot be left out; the language part is "
    "Llama-3.1's own",
    "Gemma3n": "its picture part needs a library that the runner does not have (timm)",
    "PaliGemma": "it reads its questions from both sides",
    "AyaVision": "its language part alone answers with other numbers than the whole",
    "Cohere2Vision": "its language part alone answers with other numbers than the whole",
}
"""Why a family is not among them, by how the class begins; others have no class of their own."""

_TEXT_SIBLINGS = {
    "gemma3n": "gemma-3-1b-it",
    "gemma3": "gemma-3-1b-it",
    "paligemma": "gemma-2-9b-it",
    "qwen2vl": "Qwen2.5-7B-Instruct",
    "qwen2_5_vl": "Qwen2.5-7B-Instruct",
    "qwen3vl": "Qwen3-8B",
    "mistral3": "Mistral-Small-24B-Instruct-2501",
    "pixtral": "Mistral-Nemo-Instruct-2407",
    "mllama": "Llama-3.1-8B-Instruct",
    "phi3v": "Phi-3.5-mini-instruct",
    "phi4": "Phi-4-mini-instruct",
    "smolvlm": "SmolLM2-1.7B-Instruct",
    "glm4v": "GLM-4-9B-0414",
    "granitevision": "granite-3.3-8b-instruct",
}
"""A text model of the same family, by how the class begins in small letters."""

_HEADS = {
    "ForSequenceClassification": "it sorts texts into classes",
    "ForTokenClassification": "it labels single words",
    "ForQuestionAnswering": "it marks an answer within a text",
    "ForMultipleChoice": "it chooses among given answers",
    "ForMaskedLM": "it fills in gaps and reads from both sides",
    "ForPreTraining": "it is an encoder, which reads from both sides",
    "ForNextSentencePrediction": "it compares two sentences",
    "ForRewardModel": "it grades answers",
    "RewardModel": "it grades answers",
    "ForImageClassification": "it sorts pictures",
    "ForTextEncoding": "it turns texts into numbers (embeddings)",
    "EncoderModel": "it turns texts into numbers (embeddings)",
    "Model": "it has no output layer for words, as embedding models",
}
"""What models of other classes do, by how the class ends; the first that fits counts."""

_OLD_QUANT_FILES = {
    "quantize_config.json": "gptq",  # AutoGPTQ before transformers knew it
    "quant_config.json": "awq",  # AutoAWQ, likewise
    "hf_quant_config.json": "modelopt",  # NVIDIA's FP8 and NVFP4 models
}
_SIXTEEN_BITS = "Choose the version in 16 bits (bf16): the runner makes its own 4 bits of it."


def quantisation(config: Mapping[str, Any], files: Iterable[str] = ()) -> str | None:
    """Name how a model was quantised before it came here; None: it is in 16 or 32 bits."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        found = part.get("quantization_config") or part.get("compression_config")
        if isinstance(found, dict):
            return _quant_method(found)
        if isinstance(part.get("quantization"), dict):  # mlx-lm writes it so
            return "mlx"
    return next((_OLD_QUANT_FILES[name] for name in files if name in _OLD_QUANT_FILES), None)


def _quant_method(found: Mapping[str, Any]) -> str:
    method = found.get("quant_method")
    if found.get("load_in_4bit") is True or found.get("_load_in_4bit") is True:
        return "bitsandbytes, 4 bits"
    if found.get("load_in_8bit") is True or found.get("_load_in_8bit") is True:
        return "bitsandbytes, 8 bits"
    return visible(method)[:40] if isinstance(method, str) and method else "unknown method"


def language_part(config: Mapping[str, Any]) -> LanguagePart | None:
    """Give the language part that is trained of a model that also reads pictures.

    None: it reads no pictures, or it cannot be trained here (`kind_problem` says why).
    """
    first = _first_class(config)
    if first is None or not isinstance(config.get("text_config"), dict):
        return None
    return LANGUAGE_PARTS.get(first)


def language_part_note(config: Mapping[str, Any]) -> str | None:
    """Say what is trained of a model that also reads pictures; None: all of it is text."""
    if language_part(config) is None:
        return None
    return "the model also reads pictures: only its language part is trained, on text"


def _first_class(config: Mapping[str, Any]) -> str | None:
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    return first if isinstance(first, str) else None


def kind_problem(
    name: str, config: Mapping[str, Any], *, files: Iterable[str] = (), method: Method | None = None
) -> Problem | None:
    """Say why a model cannot be trained here, as far as its config tells; None: nothing tells so.

    Args:
        name: as the spec has it.
        config: the model's config.json.
        files: names of the files that lie beside it.
        method: of the spec; None where there is none: then what one method allows is let through.
    """
    quantised = quantisation(config, files)
    if quantised is not None:
        problem = _quantised(quantised, method)
        if problem is not None:
            return Problem(field="model", found=name, message=problem[0], hint=problem[1])
    first = _first_class(config)
    if first is None:
        return Problem(
            field="model",
            found=name,
            message="config.json does not say which kind of model this is (no architectures)",
            hint="Choose a text-generating model, such as one whose name ends in -Instruct.",
        )
    if language_part(config) is not None:
        return None
    message, hint = _other_kind(visible(first)[:80], config)
    return Problem(field="model", found=name, message=message, hint=hint) if message else None


def _quantised(how: str, method: Method | None) -> tuple[str, str] | None:
    if how == "bitsandbytes, 4 bits":
        if method != "lora":
            return None
        what = "this model is already quantised (bitsandbytes, 4 bits); method: lora takes 16 bits"
        return what, "Write method: qlora, or choose the version in 16 bits."
    return (
        f"this model is already quantised ({how}): choose the version in 16 bits",
        _SIXTEEN_BITS,
    )


def _other_kind(first: str, config: Mapping[str, Any]) -> tuple[str | None, str]:
    """Name what else the model is, and what to choose instead."""
    lower = first.lower()
    sibling = next((text for key, text in _TEXT_SIBLINGS.items() if lower.startswith(key)), None)
    instead = (
        f"Choose a text model: of this family {sibling} is one."
        if sibling
        else "Choose a text model, such as one whose name ends in -Instruct and not in -VL."
    )
    of_family = f"; of this family {sibling} is one" if sibling else ""
    conditional = first.endswith("ForConditionalGeneration")
    if first.startswith(_SOUND) or (not conditional and _names(config, _SOUND_KEYS)):
        return f"this model works with sound ({first}); only text models are trained here", instead
    if _is_seq_to_seq(first, config):
        what = f"this model rewrites one text into another (encoder-decoder, {first}); only models"
        what += " that continue a text are trained here"
        return what, "Choose a model whose class ends in ForCausalLM, such as one named -Instruct."
    reads = conditional or "Omni" in first or first.startswith(_PICTURE_CLASSES)
    if reads or _names(config, _PICTURE_KEYS):
        why = next((w for start, w in _NO_LANGUAGE_PART.items() if first.startswith(start)), None)
        what = f"this model also reads pictures ({first}), and its language part cannot be trained "
        what += f"by itself: {why}" if why else "by itself here"
        return what + of_family, instead
    if config.get("model_type") in _BOTH_SIDES and config.get("is_decoder") is not True:
        return (
            f"this model reads texts from both sides and writes none (encoder, {first})",
            "Choose a model that writes text, such as one named -Instruct.",
        )
    if first == "DogeForCausalLM" and config.get("is_moe") is True:
        what = "the experts of this model (Doge) are chosen by the words of a whole text at once: "
        what += "it would see the words it has to learn"
        return what, "Choose a model without experts, or of another family."
    if first.endswith(_CAUSAL_ENDINGS) or first in _ALSO_CAUSAL:
        return None, ""
    does = next((what for end, what in _HEADS.items() if first.endswith(end)), None)
    return (
        f"this model writes no text: {does} ({first})"
        if does
        else f"this is not a text-generating language model (its config says {first!r})",
        "Choose a model whose class ends in ForCausalLM, such as one named -Instruct.",
    )


def _is_seq_to_seq(first: str, config: Mapping[str, Any]) -> bool:
    starts = tuple(f"{family}For" for family in _SEQ_TO_SEQ)
    return (
        config.get("is_encoder_decoder") is True
        or first.startswith(starts)
        or first.endswith(_SEQ_TO_SEQ_ENDINGS)
    )


def _names(config: Mapping[str, Any], keys: Iterable[str]) -> bool:
    """Whether the config has something under one of the keys, not just an empty place."""
    return any(config.get(key) not in (None, "", False, {}, []) for key in keys)


def adapter_base(folder: Path) -> bool:
    """Whether a folder holds an adapter where a base model is wanted."""
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()
