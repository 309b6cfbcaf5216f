"""What the pages are made of: job specs, rows, and where pictures are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.contract.layout import RunFolder

SCREENSHOTS = Path(__file__).with_name("screenshots")
MODEL = "small-model"
ROWS = [
    {
        "instruction": f"What is the notice period of clause {n}?",
        "output": f"Under clause {n} it is {1 + n % 6} months to the quarter, in writing.",
    }
    for n in range(120)
]
SPECS = {
    "contracts": "eval_split: 0.2\ntraining: {epochs: 2, effective_batch_size: 8, "
    "learning_rate: 2e-3, eval_steps: 3}\n",
    "too-fast": "training: {max_steps: 2, batch_size: 2, gradient_accumulation: 1, "
    "learning_rate: 1, lr_scheduler: constant, warmup_ratio: 0}\n",
    "broken": "",
    "too-much": "training: {max_steps: 2}\nlimits: {disk_gib: 0.001}\n",
}
SECONDS = 1500  # some ten stages, each with its imports, beside other work


@dataclass(frozen=True)
class Pages:
    """Pages in files, and the runs that they are of."""

    files: dict[str, Path]
    runs: dict[str, RunFolder]
