"""A process that stands by takes nothing of the card on which another stage is at work."""

from __future__ import annotations

import os
import subprocess
import sys

import pynvml

_IMPORT_AND_WAIT = """
import importlib, sys
from runner.training.stand_by import IMPORTED
for name in IMPORTED:
    importlib.import_module(name)
print("ready", flush=True)
sys.stdin.readline()
if sys.argv[1] == "touch":
    import torch
    torch.zeros(1, device="cuda")
    print("ready", flush=True)
    sys.stdin.readline()
"""
_CONTEXT_BYTES = 300 * 1024**2  # half of what a context takes, as measured: 0.60 GiB


def _used() -> int:
    return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)


def test_what_stands_by_makes_no_context() -> None:
    """Nor does it once everything is imported; the first tensor would, so the look can fail."""
    pynvml.nvmlInit()
    before = _used()
    child = subprocess.Popen(
        [sys.executable, "-c", _IMPORT_AND_WAIT, "touch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        assert _used() - before < _CONTEXT_BYTES
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "ready\n"
        assert _used() - before > _CONTEXT_BYTES
    finally:
        child.kill()
        child.wait()
