"""Turns the packaged model into what the tests share: a small real one, its tokenizer whole."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

# As in the Makefile: children that may write no bytecode would each compile all modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

TINY_LAYERS = 2
TINY_VERSION = 1  # raise it when packaged_model.py writes something else


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """A folder with the first layers of SmolLM2 and its real tokenizer: ``<models dir>/tiny``.

    Made once per machine and kept outside the repository; tests must not write into it.
    """
    from runner.training.packaged_model import prepare_demo_model

    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if not os.access(base.parent, os.W_OK):
        base = Path(tempfile.gettempdir())
    models = base / "finetuning-box-tests" / f"v{TINY_VERSION}" / "models"
    models.mkdir(parents=True, exist_ok=True)
    with (models.parent / "lock").open("w") as lock:  # several test processes, one maker
        fcntl.flock(lock, fcntl.LOCK_EX)
        return prepare_demo_model(models / "tiny", layers=TINY_LAYERS)
