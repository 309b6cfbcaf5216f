"""Export, as a spec asks for it: which forms of the result are made for serving it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Gguf = Literal["f16", "q8_0", "q5_k_m", "q4_k_m"]
GGUF: tuple[Gguf, ...] = ("f16", "q8_0", "q5_k_m", "q4_k_m")
"""Formats of a GGUF file, as llama.cpp names them, the largest first."""


class ExportWish(BaseModel):
    """Which forms of the result are made after the evaluation, beside the adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    merged: bool = Field(
        False,
        description="Write merged/: base model and adapter as one model in 16 bits, for vLLM, TGI "
        "and plain transformers.",
    )
    gguf: list[Gguf] | None = Field(
        None,
        min_length=1,
        description="Write gguf/: one file for llama.cpp and Ollama in each of these formats, such "
        "as [q4_k_m].",
    )
    adapter_gguf: bool = Field(
        False, description="Write the adapter alone as a GGUF file, for a base that llama.cpp has."
    )

    @property
    def asks(self) -> bool:
        """Whether anything beside the adapter is asked for."""
        return self.merged or bool(self.gguf) or self.adapter_gguf

    @property
    def gguf_field(self) -> str | None:
        """Name the field that asks for a file that llama.cpp makes; None: none does."""
        if self.gguf:
            return "export.gguf"
        return "export.adapter_gguf" if self.adapter_gguf else None

    @property
    def needs_merged(self) -> bool:
        """Whether base and adapter are put together for it; a GGUF model is made from that."""
        return self.merged or bool(self.gguf)


def plain_format(text: str) -> str:
    """Give a format as it is written here: ``Q4_K_M`` and ``q4-k-m`` are the same."""
    return text.strip().casefold().replace("-", "_")


def gguf_problem(formats: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Find formats that do not exist, or stand there twice: place, what, how to fix it."""
    known = f"formats are {', '.join(GGUF)}"
    for number, name in enumerate(formats):
        if name not in GGUF:
            yield number, "is not a GGUF format that is made here", known
        elif name in formats[:number]:
            yield number, "the same format stands there twice", "keep one of the two"
