"""Turns the tiny real model into still smaller ones: most of a small model's step is its words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SPECIAL = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}


def keep_words(model: Path, words: set[int], target: Path) -> None:
    """Copy a model with these tokens alone; the tokenizer names each by the number that it had."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    kept = [*SPECIAL.values(), *sorted(words - set(SPECIAL.values()))]
    names = {**SPECIAL, **{str(id_): new for new, id_ in enumerate(kept) if new > 2}}
    _save(model, kept, Tokenizer(WordLevel(names, unk_token="<|endoftext|>")), target)


def keep_bytes(model: Path, target: Path) -> None:
    """Copy a model that reads any text, byte by byte, with the chat template of the original."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import AutoTokenizer

    original = AutoTokenizer.from_pretrained(model)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    kept = [*SPECIAL.values(), *original.convert_tokens_to_ids(alphabet)]
    names = {**SPECIAL, **{char: 3 + at for at, char in enumerate(alphabet)}}
    tokenizer = Tokenizer(BPE(vocab=names, merges=[]))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    _save(model, kept, tokenizer, target, chat_template=original.chat_template)


def _save(model: Path, kept: list[int], tokenizer: Any, target: Path, **more: Any) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    weights = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).state_dict()
    config = AutoConfig.from_pretrained(model, vocab_size=len(kept))
    small = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    small.load_state_dict(
        {k: v[kept] if "embed" in k or "lm_head" in k else v for k, v in weights.items()}
    )
    small.save_pretrained(target)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        **more,
    ).save_pretrained(target)
