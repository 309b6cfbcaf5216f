"""A GGUF adapter is made where the file system has no links, as by SMB."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runner.contract.llama_cpp import LlamaCpp
from runner.training.export import llama_convert

_CONVERTER = """
import sys
from pathlib import Path
folder, target = Path(sys.argv[1]), Path(sys.argv[sys.argv.index("--outfile") + 1])
target.write_bytes((folder / "adapter_model.safetensors").read_bytes())
"""


def test_a_folder_without_links_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The converter reads the adapter's weights; a stand-in for it copies what it was handed."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(95, os.strerror(95))

    for name in ("symlink", "link"):
        monkeypatch.setattr(os, name, refused)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"r": 8, "lora_alpha": 8}))
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    (tmp_path / "llama.cpp").mkdir()
    tools = LlamaCpp(root=tmp_path / "llama.cpp")
    tools.convert_adapter.write_text(_CONVERTER)
    target = tmp_path / "adapter.gguf"
    llama_convert.convert_adapter(
        tmp_path / "adapter", tmp_path, target, tools, log=tmp_path / "log"
    )
    assert target.read_bytes() == b"weights"
