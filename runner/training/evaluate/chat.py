"""Chat: two answers to each question, the base model's and the adapter's (`runner try`)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from runner.spec.spec import JobSpec
from runner.training.data.tokenizer_folder import load_tokenizer
from runner.training.evaluate.answers import answers, unpack_for_answers
from runner.training.fit.model import Machine, load_base
from runner.training.import_stack import TRIES, import_stack

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
        import_stack("torch", *TRIES)
        from peft import PeftModel

        base = load_base(
            model_folder,
            method=spec.method,
            machine=machine,
            trust_remote_code=trust_remote_code,
            whole=True,
        )
        self._model: Any = PeftModel.from_pretrained(base, str(adapter)).eval()
        self._tokenizer: Any = load_tokenizer(adapter)
        self._machine = machine
        unpack_for_answers(self._model, machine)
        self._system = spec.system_prompt

    def start(self) -> Messages:
        """Begin a conversation as the run's rows did."""
        return [{"role": "system", "content": self._system}] if self._system else []

    def answer(self, messages: Messages, *, tuned: bool, max_new_tokens: int) -> str:
        """Answer the last message, always the same way: the likeliest token each time."""
        way = contextlib.nullcontext() if tuned else self._model.disable_adapter()
        with way:
            (text,) = answers(
                self._model,
                self._tokenizer,
                [messages],
                machine=self._machine,
                tokens=max_new_tokens,
            )
        return text
