"""The command line and the environment of a stage, and what of our own reaches it."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from pathlib import Path

from runner.contract.stage_io import PARENT
from runner.contract.states import Stage

PASSED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "CUDA_*",
    "NVIDIA_*",
    "OMP_*",
    "OPENBLAS_*",
    "RUNNER_LLAMA_CPP",
)
"""Variables of the daemon's own environment that a stage sees; no other reaches it."""

BOX = "RUNNER_BOX"
"""Variable of a stage on a further box: its agent ends those that an earlier one has left."""

NO_CARD = "-1"
"""In a card's place: the stage sees none. So do those that prepare, beside whoever has the card."""

FIXED = {
    # The stages must behave the same with and without a network: nothing leaves the box.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    # The tokenizer's own threads and forked workers deadlock together.
    "TOKENIZERS_PARALLELISM": "false",
    # A stage's log is read by people: bars that redraw themselves are no lines.
    "TQDM_DISABLE": "1",
    # Fragmentation looks like a lack of memory; segments that grow avoid most of it.
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
}


SPARING = {
    # glibc learns to keep what large tensors gave back, in pieces that fit no later one: quantised
    # loads ended between 600 and 1,010 MiB, and with this always at 600 or less.
    "MALLOC_MMAP_THRESHOLD_": str(1024**2),
    # transformers reads several weights at once; one at a time needs the room of one.
    "HF_DEACTIVATE_ASYNC_LOAD": "1",
}
"""Of a stage that is started again because the machine's own memory ran out."""


def environment(
    inherited: Mapping[str, str],
    *,
    home: Path,
    card: str | None = None,
    spare_host_memory: bool = False,
    box: str = "",
) -> dict[str, str]:
    """Build a stage's environment: a list of what is allowed in, and what is always so.

    Args:
        inherited: the daemon's own.
        home: HOME of the stages.
        card: UUID of the only card that it sees, or of several, with commas; None: the first of
            those that the daemon sees, for whoever sees two takes them for its own: Trainer puts
            a model on both.
        spare_host_memory: the machine's own memory ran out before.
        box: the name of a further box, whose agent starts it; empty: the daemon does.
    """
    passed = {
        name: value
        for name, value in inherited.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in PASSED_ON)
    }
    return {
        **passed,
        "HOME": str(home),
        # A container's numeric user has no entry in /etc/passwd, where both would look for a name.
        "TRITON_CACHE_DIR": str(home / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"),
        "USER": "runner",
        PARENT: str(os.getpid()),
        **FIXED,
        "CUDA_VISIBLE_DEVICES": card or _first(inherited.get("CUDA_VISIBLE_DEVICES")),
        **(SPARING if spare_host_memory else {}),
        **({BOX: box} if box else {}),
    }


def _first(visible: str | None) -> str:
    """Name the first card of a list of visible ones; None: all are, and "" or "-1": none is."""
    return "0" if visible is None else visible.split(",")[0].strip()


def command(stage_command: tuple[str, ...], stage: Stage, folder: Path) -> list[str]:
    """Build a stage's command line."""
    return [*stage_command, stage.value, str(folder)]
