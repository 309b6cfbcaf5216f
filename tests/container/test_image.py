"""The image: what is in it, at which version, and what of the builder's is not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import MARKER, SECRET
from daemon_box import REPOSITORY

PRESENT = b"The command line: a table of verbs"  # cli.py's first words: the search can find
LIST_PACKAGES = """
import importlib.metadata, json
print(json.dumps({d.name: d.version for d in importlib.metadata.distributions()}))
"""
LOOK = """
import bitsandbytes, json, pathlib, torch
libraries = pathlib.Path(bitsandbytes.__file__).parent.glob("libbitsandbytes_*.so")
print(json.dumps({
    "torch": torch.__version__,
    "cuda": torch.version.cuda,
    "libraries": sorted(path.name for path in libraries),
}))
"""


def inside(
    engine: Any, image: str, *words: str, entrypoint: str = "python", user: str | None = None
) -> str:
    """Run a command in a container of the image; give what it printed."""
    said: bytes = engine.containers.run(
        image,
        list(words),
        entrypoint=entrypoint,
        user=user,
        remove=True,
        network_mode="none",
        mem_limit="4g",
    )
    return said.decode()


def found_in(stream: Iterable[bytes], words: Iterable[bytes]) -> set[bytes]:
    """Tell which words a stream has, across its pieces."""
    wanted, found, tail = set(words), set(), b""
    keep = max(len(word) for word in wanted)
    for piece in stream:
        text = tail + piece
        found |= {word for word in wanted - found if word in text}
        tail = text[-keep:]
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def names(engine: Any, image: str) -> list[str]:
    """Every path of the image."""
    return inside(engine, image, "/", "-xdev", entrypoint="find", user="0:0").splitlines()


def test_nothing_of_the_builders_is_in_it(engine: Any, image: str) -> None:
    """Data, models, results, settings and the index's password: no layer has a byte of them."""
    words = [MARKER.encode(), SECRET.encode(), PRESENT]
    saved = engine.images.get(image).save(chunk_size=8 * 1024 * 1024)
    assert found_in(saved, words) == {PRESENT}
    about = json.dumps([engine.api.history(image), engine.api.inspect_image(image)])
    assert MARKER not in about
    assert SECRET not in about


def test_the_packages_are_the_locks(engine: Any, image: str) -> None:
    """What development tests is what people get, to the version; and nothing else."""
    installed = {
        normal(name): version
        for name, version in json.loads(inside(engine, image, "-c", LIST_PACKAGES)).items()
    }
    locked = {
        normal(name): version
        for name, version in re.findall(
            r"^([\w.-]+)==([\w.+!]+)",
            (REPOSITORY / "requirements.lock").read_text(),
            re.MULTILINE,
        )
    }
    differing = {
        name: (version, installed.get(name))
        for name, version in locked.items()
        if installed.get(name, version) != version
    }
    assert differing == {}
    of_torch = re.compile(r"torch|triton|nvidia-.*|cuda-.*|pip|finetuning-box")
    extra = {name for name in installed if name not in locked and not of_torch.fullmatch(name)}
    assert extra == set()
    assert installed["torch"].split("+")[0] == "2.13.0"


def test_bitsandbytes_has_a_library_for_torchs_cuda(engine: Any, image: str) -> None:
    """Torch 2.13.0 for CUDA 13.0, and 4-bit kernels for the same; and the CPU's, to try the box.

    Where the package index has only a build for CPUs, the image is one for trying the box out: that
    is skipped, and said.
    """
    facts = json.loads(inside(engine, image, "-c", LOOK))
    assert "libbitsandbytes_cpu.so" in facts["libraries"]
    if facts["cuda"] is None:
        pytest.skip(f"THE INDEX GAVE {facts['torch']}, FOR CPUS ONLY: its CUDA was not looked at")
    assert facts["cuda"] == "13.0"
    assert f"libbitsandbytes_cuda{facts['cuda'].replace('.', '')}.so" in facts["libraries"]


def test_nothing_is_in_it_that_nobody_runs(names: list[str]) -> None:
    """No download caches, no package lists, no tests of packages, none of this project's."""
    caches = r"(/root/\.cache|/cache|/var/cache|/var/lib/apt/lists)/.+"
    tests = r"/opt/runner/.*/tests(/.*)?|.*/(container_box|standin_stage)\.py"
    assert [name for name in names if re.fullmatch(rf"{caches}|{tests}", name)] == []


CONVERTER = """
import os, subprocess, sys
from runner.contract.llama_cpp import find_llama_cpp
tools = find_llama_cpp()
print(tools.version, "LlamaForCausalLM" in tools.architectures())
environment = {**os.environ, "PYTHONPATH": str(tools.root / "python"), "HOME": "/tmp"}
for command in (
    [str(tools.quantize), "--help"],
    [str(tools.server), "--version"],
    [sys.executable, str(tools.convert_model), "--help"],
    [sys.executable, str(tools.convert_adapter), "--help"],
):
    done = subprocess.run(command, capture_output=True, env=environment)
    print(done.returncode, command[-2].rpartition("/")[2])
"""


def test_llama_cpps_tools_run_in_it(engine: Any, image: str) -> None:
    """What makes GGUF files and asks them, as the image's user; no compiler came with it."""
    found, *ends = inside(engine, image, "-c", CONVERTER).splitlines()
    assert found == "llama_cpp_python==0.3.36 True"
    assert [one.split()[1] for one in ends] == [
        "llama-quantize",
        "llama-server",
        "convert_hf_to_gguf.py",
        "convert_lora_to_gguf.py",
    ]
    # llama-quantize ends with 1 after its help, as it does after every wrong command line.
    assert [one.split()[0] for one in ends[1:]] == ["0"] * 3


def test_it_runs_as_nobody_in_particular(engine: Any, image: str) -> None:
    """Not root, whoever starts it; labelled, so that the doctor finds it."""
    config = engine.images.get(image).attrs["Config"]
    assert config["User"] == "1000:1000"
    assert config["Labels"]["org.opencontainers.image.title"] == "finetuning-box"
    assert config["Entrypoint"] == ["runner"]


def test_a_newcomer_is_told_its_commands(engine: Any, image: str) -> None:
    """`docker run IMAGE --help` works, without a folder, a GPU or a user of one's own."""
    assert "Watch the inbox" in inside(engine, image, "--help", entrypoint="runner")


def test_the_base_and_the_packages_are_pinned() -> None:
    """An exact tag, torch's exact version, and hashes for everything else."""
    text = (REPOSITORY / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE_IMAGE=python:\d+\.\d+\.\d+-slim-bookworm$", text, re.MULTILINE)
    assert "torch==2.13.0" in text
    assert "--require-hashes" in text
    lock = Path(REPOSITORY / "requirements.lock").read_text()
    pins = re.findall(r"^[\w.-]+==.*?(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)
    assert len(pins) > 40
    assert all("--hash=sha256:" in pin for pin in pins)
