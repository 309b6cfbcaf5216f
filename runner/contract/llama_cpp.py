"""llama.cpp's tools on this box: where they lie, and which architectures their converter knows.

They are built from a source package (`tools/llama/build`): the image has them, and a checkout after
`make llama`. Without them everything works but GGUF files.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import Problem
from runner.words import visible

VARIABLE = "RUNNER_LLAMA_CPP"
"""Names the folder of the tools, where they lie elsewhere."""
_IN_IMAGE = Path("/opt/llama.cpp")
_IN_CHECKOUT = Path(__file__).parents[2] / ".llama.cpp"
_TABLE = "TEXT_MODEL_MAP"  # in conversion/__init__.py: architecture → module that converts it
_TABLE_BYTES = 1024 * 1024  # it has 30 KB


@dataclass(frozen=True, kw_only=True)
class LlamaCpp:
    """A folder that `tools/llama/build` wrote."""

    root: Path

    @property
    def version(self) -> str:
        """The package that it was built from, by name and version."""
        return (self.root / "VERSION").read_text(encoding="utf-8").strip()

    @property
    def quantize(self) -> Path:
        """Makes smaller GGUF files of one in 16 bits."""
        return self.root / "bin" / "llama-quantize"

    @property
    def server(self) -> Path:
        """Answers from a GGUF file."""
        return self.root / "bin" / "llama-server"

    @property
    def convert_model(self) -> Path:
        """Makes a GGUF file of a Hugging Face folder."""
        return self.root / "convert_hf_to_gguf.py"

    @property
    def convert_adapter(self) -> Path:
        """Makes a GGUF file of a PEFT adapter."""
        return self.root / "convert_lora_to_gguf.py"

    @property
    def whole(self) -> bool:
        """Whether all of it is there and may be run."""
        return (
            all(os.access(program, os.X_OK) for program in (self.quantize, self.server))
            and all(script.is_file() for script in (self.convert_model, self.convert_adapter))
            and (self.root / "VERSION").is_file()
        )

    def architectures(self) -> frozenset[str]:
        """List the architectures that the converter knows, as config.json names them.

        The table is read and not imported: that would take torch.
        """
        file = self.root / "conversion" / "__init__.py"
        with file.open("rb") as opened:
            tree = ast.parse(opened.read(_TABLE_BYTES))
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == _TABLE:
                return frozenset(ast.literal_eval(node.value or ast.Dict([], [])))
        return frozenset()


def find_llama_cpp(environment: Mapping[str, str] | None = None) -> LlamaCpp | None:
    """Find the tools: where the variable says, in the image's place, or in the checkout."""
    named = (os.environ if environment is None else environment).get(VARIABLE, "").strip()
    for place in [Path(named)] if named else [_IN_IMAGE, _IN_CHECKOUT]:
        found = LlamaCpp(root=place)
        if found.whole:
            return found
    return None


def missing_tools(environment: Mapping[str, str] | None = None) -> str | None:
    """Say that GGUF files cannot be made on this box, and how to change that."""
    if find_llama_cpp(environment) is not None:
        return None
    named = (os.environ if environment is None else environment).get(VARIABLE, "").strip()
    if named:
        return (
            f"llama.cpp's tools are not in {visible(named)}, which {VARIABLE} names; "
            "`make llama` in a checkout builds them"
        )
    return (
        "llama.cpp's tools are not on this box; in a checkout `make llama` builds them "
        f"(it needs g++), and {VARIABLE} names their folder elsewhere"
    )


def architecture_of(config: dict[str, Any]) -> str | None:
    """Give the architecture by which the converter chooses: that of the language part, if named."""
    inner = config.get("text_config")
    for part in (inner if isinstance(inner, dict) else {}, config):
        names = part.get("architectures")
        if isinstance(names, list) and names and isinstance(names[0], str):
            return names[0]
    return None


def unknown_architecture(config: dict[str, Any], tools: LlamaCpp) -> str | None:
    """Say that llama.cpp does not know a base model's architecture; None: it does.

    Args:
        config: the base model's config.json.
        tools: llama.cpp on this box.
    """
    known = tools.architectures()
    whole = config.get("architectures")
    named = architecture_of(config)
    if named in known or (isinstance(whole, list) and whole and whole[0] in known):
        return None
    shown = visible(named) if named else "none named in config.json"
    return (
        f"llama.cpp does not know this model's architecture ({shown}), and cannot make a GGUF file"
    )


def gguf_problem(field: str, config: dict[str, Any]) -> Problem | None:
    """Refuse a spec's wish for GGUF files that this box cannot make; None: it can.

    Args:
        field: which wish, such as ``export.gguf``.
        config: the base model's config.json.
    """
    tools = find_llama_cpp()
    if tools is None:
        return Problem(
            field=field,
            message=f"{missing_tools()}",
            hint=f"Or leave {field} out: runner export RUN makes the file later.",
        )
    said = unknown_architecture(config, tools)
    if said is None:
        return None
    hint = f"Leave {field} out; vLLM and transformers serve the adapter, or export.merged."
    return Problem(field=field, message=said, hint=hint)
