"""llama.cpp's tools: found, named as missing, and the table of what their converter knows."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from runner.contract.llama_cpp import (
    VARIABLE,
    LlamaCpp,
    architecture_of,
    find_llama_cpp,
    gguf_problem,
    missing_tools,
    unknown_architecture,
)
from runner.doctor import llama_cpp as doctor
from runner.doctor.finding import Level


@pytest.fixture
def tools(tmp_path: Path) -> LlamaCpp:
    """A folder as `tools/llama/build` lays it out, with a table of three architectures."""
    (tmp_path / "bin").mkdir()
    for program in ("llama-quantize", "llama-server"):
        (tmp_path / "bin" / program).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / program).chmod(0o755)
    for name in ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "conversion").mkdir()
    (tmp_path / "conversion" / "__init__.py").write_text(
        "from .base import torch_is_imported_here\n"
        "TEXT_MODEL_MAP: dict[str, str] = {\n"
        '    "LlamaForCausalLM": "llama",\n    "Qwen3ForCausalLM": "qwen",\n'
        '    "Gemma3ForConditionalGeneration": "gemma",\n}\n'
    )
    (tmp_path / "VERSION").write_text("llama_cpp_python==0.3.36\n")
    return LlamaCpp(root=tmp_path)


def test_the_folder_that_the_setting_names_is_used(tools: LlamaCpp) -> None:
    """RUNNER_LLAMA_CPP names the folder; it is used when all of it is there."""
    environment = {VARIABLE: str(tools.root)}
    assert find_llama_cpp(environment) == tools
    assert missing_tools(environment) is None


@pytest.mark.parametrize(
    "lost", ["bin/llama-quantize", "bin/llama-server", "convert_lora_to_gguf.py", "VERSION"]
)
def test_a_folder_that_is_not_whole_is_not_used(tools: LlamaCpp, lost: str) -> None:
    """Half a folder is none: the answer names the setting, its value, and the command."""
    (tools.root / lost).unlink()
    environment = {VARIABLE: str(tools.root)}
    assert find_llama_cpp(environment) is None
    said = missing_tools(environment)
    assert said is not None
    assert VARIABLE in said
    assert str(tools.root) in said
    assert "make llama" in said


def test_an_architecture_is_looked_up_in_the_converters_own_table(tools: LlamaCpp) -> None:
    """A known one passes without torch; an unknown one is named with what follows from it."""
    assert unknown_architecture({"architectures": ["LlamaForCausalLM"]}, tools) is None
    said = unknown_architecture({"architectures": ["ZambaNewForCausalLM"]}, tools)
    assert said is not None
    assert "ZambaNewForCausalLM" in said
    assert "none named" in (unknown_architecture({}, tools) or "")


def test_a_model_that_reads_pictures_counts_by_its_whole_or_its_language_part(
    tools: LlamaCpp,
) -> None:
    """The converter chooses by the language part's name where it has one, else by the whole's."""
    whole = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {}}
    part = {
        "architectures": ["SomethingForConditionalGeneration"],
        "text_config": {"architectures": ["LlamaForCausalLM"]},
    }
    assert unknown_architecture(whole, tools) is None
    assert unknown_architecture(part, tools) is None
    assert architecture_of(part) == "LlamaForCausalLM"


def test_the_doctor_says_whether_gguf_files_can_be_made(
    tools: LlamaCpp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the tools it names their version; without, it says which jobs need them, and no more."""
    monkeypatch.setenv(VARIABLE, str(tools.root))
    found = doctor.examine_llama_cpp()
    assert (found.level, "0.3.36" in found.what) == (Level.OK, True)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    found = doctor.examine_llama_cpp()
    assert found.level is Level.SKIPPED  # every other job runs
    assert "make llama" in found.what


def test_the_real_table_is_read() -> None:
    """Where the tools are built, the table is read as it stands in their converter."""
    tools = find_llama_cpp()
    if tools is None:
        pytest.skip(f"NO LLAMA.CPP: {missing_tools()}")
    text = (tools.root / "conversion" / "__init__.py").read_text()
    table = text.partition("TEXT_MODEL_MAP: dict[str, str] = ")[2].partition("\n}\n")[0] + "\n}"
    assert tools.architectures() == set(ast.literal_eval(table))
    assert {"LlamaForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM"} <= tools.architectures()


def test_a_wish_that_this_box_cannot_meet_is_refused_before_the_run(
    tools: LlamaCpp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing tools and an unknown architecture name the field, and what to do; a known one may."""
    known = {"architectures": ["LlamaForCausalLM"]}
    monkeypatch.setenv(VARIABLE, str(tools.root))
    assert gguf_problem("export.gguf", known) is None
    unknown = gguf_problem("export.gguf", {"architectures": ["ZambaNewForCausalLM"]})
    assert unknown is not None
    assert (unknown.field, unknown.hint is not None) == ("export.gguf", True)
    assert "ZambaNewForCausalLM" in unknown.message
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    missing = gguf_problem("export.adapter_gguf", known)
    assert missing is not None
    assert missing.field == "export.adapter_gguf"
    assert VARIABLE in missing.message
    assert "runner export RUN" in (missing.hint or "")
