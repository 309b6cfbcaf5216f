"""Turns a conversation into two answers, the base model's and the adapter's: `runner try`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from runner.contract.spec import JobSpec
from runner.training.model import Machine, load_base

Messages = list[dict[str, str]]


class SideBySide:
    """One loaded base model; the adapter is switched on and off over it."""

    def __init__(
        self,
        model_folder: Path,
        adapter: Path,
        spec: JobSpec,
        machine: Machine,
        *,
        trust_remote_code: bool = False,
    ) -> None:
        """Load the base as the run trained it, and the adapter as its user would."""
        from peft import PeftModel
        from transformers import AutoTokenizer

        base = load_base(
            model_folder, method=spec.method, machine=machine, trust_remote_code=trust_remote_code
        )
        self._model: Any = PeftModel.from_pretrained(base, str(adapter)).eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(adapter), local_files_only=True)
        self._system = spec.system_prompt

    def start(self) -> Messages:
        """Begin a conversation as the run's rows did."""
        return [{"role": "system", "content": self._system}] if self._system else []

    def answer(self, messages: Messages, *, tuned: bool, max_new_tokens: int) -> str:
        """Answer the last message, always the same way: the likeliest token each time."""
        import torch

        inputs = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self._model.device)
        way = contextlib.nullcontext() if tuned else self._model.disable_adapter()
        with torch.inference_mode(), way:
            tokens = self._model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                use_cache=True,
                eos_token_id=self._tokenizer.eos_token_id,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        new = tokens[0, inputs["input_ids"].shape[1] :]
        return str(self._tokenizer.decode(new, skip_special_tokens=True)).strip()
