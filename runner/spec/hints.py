"""Hints: what the writer of a spec surely meant by a name or value that it cannot hold.

Slips of the pen, and the names that other tools have for the same thing.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from runner.spec import human_numbers
from runner.spec.fields import FIELDS, Kind
from runner.spec.tree import shown

_OTHER_NAMES = {
    "base_model": "model",
    "model_name": "model",
    "model_name_or_path": "model",
    "dataset": "data",
    "datasets": "data",
    "train_data": "data",
    "data_path": "data",
    "validation_data": "eval_data",
    "val_data": "eval_data",
    "val_split": "eval_split",
    "val_set_size": "eval_split",
    "system": "system_prompt",
    "num_train_epochs": "training.epochs",
    "num_epochs": "training.epochs",
    "lr": "training.learning_rate",
    "lr_scheduler_type": "training.lr_scheduler",
    "per_device_train_batch_size": "training.batch_size",
    "micro_batch_size": "training.batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation",
    "max_seq_length": "training.max_length",
    "sequence_len": "training.max_length",
    "gradient_checkpointing": "training.activation_checkpointing",
    "rank": "lora.r",
    "lora_r": "lora.r",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lora_target_modules": "lora.target_modules",
    "max_hours": "limits.hours",
    "metrics": "evaluation.scores",
    "cron": "schedule",
    "crontab": "schedule",
    "every": "schedule",
    "interval": "schedule",
}
_NOT_HERE = {
    **dict.fromkeys(("use_dora", "dora"), "DoRA is not trained here"),
    "modules_to_save": "an adapter is trained alone, no layer as a whole: name layers in "
    "lora.target_modules",
    **dict.fromkeys(
        ("train_on_inputs", "train_on_input", "train_on_prompt", "mask_inputs"),
        "only answers are learned, never questions",
    ),
    **dict.fromkeys(
        ("bf16", "fp16", "tf32", "dtype", "torch_dtype", "precision", "fp8"),
        "the runner takes the number format that the card computes best in",
    ),
    **dict.fromkeys(
        ("load_in_4bit", "load_in_8bit", "quantization", "quantize", "bits"),
        "method says this: qlora keeps the model in 4 bits, lora in 16",
    ),
    **dict.fromkeys(("optim", "optimizer"), "the optimizer is always AdamW"),
    "warmup_steps": "the warm-up is a share of all steps: warmup_ratio: 3%",
    **dict.fromkeys(
        ("flash_attention", "attn_implementation", "use_flash_attention", "unsloth", "liger"),
        "the runner takes the fastest way that gives the same result",
    ),
    **dict.fromkeys(("output_dir", "output", "outputs"), "results lie in outputs/, by job and run"),
    "neftune_noise_alpha": "no noise is added to what is learned",
}
"""Fields of other tools that have no counterpart; a name like theirs is another thing."""
_OTHER_METHODS = frozenset(
    {
        "full",
        "full-finetune",
        "finetune",
        "sft",
        "dpo",
        "orpo",
        "kto",
        "ppo",
        "grpo",
        "rlhf",
        "dora",
    }
)
_OTHER_VALUES = {
    "chatml": "messages",
    "chat": "messages",
    "openai": "messages",
    "conversation": "messages",
    "instruction": "alpaca",
    "instruct": "alpaca",
    "completion": "prompt-completion",
    "raw": "text",
    "jsonl": "auto",
    "json": "auto",
    **dict.fromkeys(("off", "false", "no", "none", "skip"), "ignore"),
    **dict.fromkeys(("warn", "warning", "advice"), "advise"),
    **dict.fromkeys(("info", "information"), "inform"),
    **dict.fromkeys(("error", "reject", "fail"), "stop"),
    "4bit": "qlora",
    "16bit": "lora",
}


def name_hint(key: str, here: Sequence[str], prefix: str) -> str | None:
    """Say which field was meant, and in which block it belongs.

    Args:
        key: the name that is none.
        here: the fields of the block that it stands in.
        prefix: that block, such as ``training.``; empty at the left margin.
    """
    word = key.strip().casefold()[:64].replace("-", "_")
    names = {path: path.rpartition(".")[2] for path in FIELDS}
    if word in here:
        return f"did you mean {word}?"
    if elsewhere := [path for path, name in names.items() if name == word]:
        return _place(elsewhere[0])
    if target := _OTHER_NAMES.get(word):
        same = target.rpartition(".")[0] == prefix.rstrip(".") or names[target] in here
        return f"did you mean {names[target]}?" + ("" if same else f" {_place(target)}")
    if word in _NOT_HERE:
        return f"{_NOT_HERE[word]}; leave the line out"
    if word in FIELDS:  # training.epochs, written as a path
        section, _, name = word.rpartition(".")
        return f"write {section}: on a line of its own, and below it, indented, {name}: …"
    if near := difflib.get_close_matches(word, here, n=1):
        return f"did you mean {near[0]}?"
    if near := difflib.get_close_matches(word, names.values(), n=1):
        path = next(path for path, name in names.items() if name == near[0])
        return f"did you mean {near[0]}? {_place(path)}"
    return None


def value_hint(text: str, kind: Kind, unit: human_numbers.Unit = "") -> str | None:
    """Say which value was meant, or how a number would have to be written."""
    whole = kind.number == "int"
    if kind.number and (written := human_numbers.well_written(text, unit, is_whole=whole)):
        return written
    if "qlora" in kind.choices and text.casefold() in _OTHER_METHODS:
        return "only adapters are trained here, on the answers: write qlora (4 bits) or lora (16)"
    near = _OTHER_VALUES.get(text.casefold())
    if near not in kind.choices:
        near = next(iter(difflib.get_close_matches(text.casefold()[:64], kind.choices, n=1)), None)
    return f"did you mean {near}?" if near else None


def _place(path: str) -> str:
    section = path.rpartition(".")[0]
    return f"it belongs under {section}:" if section else "it belongs at the left margin"


def shown_hint(hint: str) -> str:
    """Escape a hint that repeats a part of the file; clipped later than a value is."""
    parts = [hint[at : at + 50] for at in (0, 50, 100)]
    return "".join(map(shown, parts)) + ("…" if len(hint) > 150 else "")
