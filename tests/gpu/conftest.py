"""Turns the card into boxes that train: without one, nothing here is collected.

    python -m pytest tests/gpu -p no:cacheprovider

They need an NVIDIA card with 24 GB or more and the whole stack; CI has none, so a person or
`benchmarks/` runs them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave the tests alone where there is no card."""
    import torch

    return None if torch.cuda.is_available() or collection_path.is_dir() else True


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with Llama 3.2 1B's shape and a tiny one, weights random."""
    from gpu_box import make_model

    folder = tmp_path_factory.mktemp("models")
    for shape in ("tiny", "1B"):
        make_model(folder, shape)
    return folder
