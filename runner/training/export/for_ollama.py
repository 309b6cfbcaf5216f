"""Modelfile of a run: how Ollama serves its GGUF file, with the prompt that was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.contract.handed_over import BASE_GGUF
from runner.training.export.end_proof import learned_ends
from runner.training.export.makers import Source
from runner.training.export.modelfile import (
    Messages,
    Modelfile,
    go_template,
    read_turns,
    write_modelfile,
)


def modelfile_for(
    source: Source, gguf: Path, *, is_adapter: bool = False
) -> tuple[str, tuple[str, ...]]:
    """Write the Modelfile of a GGUF file of base and adapter; give it, and what it cannot say.

    Args:
        source: what the file was made from.
        gguf: the file; the Modelfile lies beside it.
        is_adapter: it is the adapter alone; the base's file is to be put beside it.
    """
    from runner.training.data.control_tokens import Readers
    from runner.training.data.system_message import renders_system
    from runner.training.data.tokenizer_folder import load_tokenizer

    tokenizer = load_tokenizer(source.run.adapter)
    has_system = renders_system(Readers(tokenizer).usual)
    turns = read_turns(lambda messages: _render(tokenizer, messages), has_system=has_system)
    bos = tokenizer.bos_token or ""
    # The converter takes over whether the tokenizer puts it there by itself.
    by_itself = bool(bos) and tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
    return write_modelfile(
        Modelfile(
            model=BASE_GGUF if is_adapter else gguf.name,
            adapter=gguf.name if is_adapter else None,
            template=go_template(turns, bos=bos if by_itself else "") if turns else None,
            system=source.spec.system_prompt,
            stops=learned_ends(source.run, tokenizer.eos_token),
        )
    )


def _render(tokenizer: Any, messages: Messages) -> str:
    """Render as answers are asked for.

    Raises:
        ValueError: the template refuses such a conversation.
    """
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        )
    except TemplateError as error:
        raise ValueError(str(error)) from None
