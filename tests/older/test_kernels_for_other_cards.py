"""The fast path's kernels are right, and compile for cards that nobody here has and fit into them.

Triton lies in a folder of its own, `.venv-older-triton`, made at the first run: 190 MB that the
other tests do without.

    make test-older
"""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[2]
TRITON = "triton==3.6.0"  # of torch 2.11; a newer one is in the image
FOLDER = REPOSITORY / ".venv-older-triton"
SHARED_BYTES = 99 * 1024
"""Of one block on an RTX 3090, 4090 and 5090 (CUDA C++ Programming Guide, compute capabilities)."""
CARDS = {"RTX 3090": 86, "RTX 4090": 89, "H100": 90, "RTX 5090": 120}
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="session")
def triton() -> Path:
    """Give the folder that Triton lies in."""
    with (REPOSITORY / ".venv-older.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (FOLDER / "triton").exists():
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
            subprocess.run([*pip, "--no-deps", "--target", str(FOLDER), TRITON], check=True)
    return FOLDER


@pytest.mark.parametrize("card", CARDS)
def test_every_kernel_compiles_and_fits(card: str, triton: Path, tmp_path: Path) -> None:
    """For the architecture of each card: no kernel wants more shared memory than a block has."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compile_ahead.py")), str(CARDS[card])],
        env={
            **os.environ,
            "PYTHONPATH": f"{triton}:{REPOSITORY}",
            "TRITON_CACHE_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    needs = json.loads(done.stdout)
    assert len(needs) == (33 if CARDS[card] >= 89 else 30)
    assert all(one["code"] > 0 for one in needs.values())
    large = {name: one["shared"] for name, one in needs.items() if one["shared"] > SHARED_BYTES}
    assert large == {}


@pytest.mark.parametrize(
    ("family", "dropout", "kept"),
    # NF4 alone has LoRA's B beside the weights, so its inputs lie in wider lines.
    [("llama", 0.2, 3), ("gemma2", 0.2, 1), ("glm4", 0.0, 0)],
)
def test_kernels_give_what_their_references_give(
    family: str, dropout: float, kept: int, triton: Path, tmp_path: Path
) -> None:
    """Their own code on a processor: the same loss and gradients, what is dropped included."""
    found = []
    for name, more in (
        ("references", {"PYTHONPATH": f"{REPOSITORY}"}),
        ("kernels", {"PYTHONPATH": f"{triton}:{REPOSITORY}", "TRITON_INTERPRET": "1"}),
    ):
        script, file = Path(__file__).with_name("interpret_kernels.py"), tmp_path / name
        done = subprocess.run(
            [sys.executable, str(script), family, str(dropout), str(kept), str(file)],
            env={**os.environ, **more},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(torch.load(file))
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) > 20
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=1e-4, atol=1e-6, msg=name)
