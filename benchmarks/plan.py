"""Turns `runner plan` on 800 contracts of several thousand tokens into seconds.

    .venv/bin/python benchmarks/plan.py [RUNS]

The rows are real sentences (a FAQ on building law), joined until they are as long as contracts;
the tokenizer is SmolLM2's. Needs the demo's model (`runner fetch demo`).
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runner.commands.demo import packaged_data
from runner.commands.fetch import DEMO_MODEL

MODELS = Path("models")
ROWS = 800
TOKENS_A_SENTENCE = 70  # of the FAQ's answers, in the mean; only the order of magnitude matters


def write_contracts(path: Path) -> None:
    """Write rows whose lengths are spread as those of contracts: median 4,000 tokens."""
    dice = random.Random(7)
    answers = [json.loads(line)["output"] for line in packaged_data().splitlines()]
    with path.open("w", encoding="utf-8") as file:
        for number in range(ROWS):
            tokens = dice.lognormvariate(8.3, 0.3)
            text = " ".join(dice.choices(answers, k=max(1, round(tokens / TOKENS_A_SENTENCE))))
            row = {"prompt": f"Contract {number}. {text}", "completion": dice.choice(answers)}
            file.write(json.dumps(row) + "\n")


def measure(folder: Path) -> tuple[float, dict[str, object]]:
    """Run the command as a person does; give its wall time and what it said."""
    words = [sys.executable, "-m", "runner.cli", "plan", str(folder / "contracts.yaml"), "--json"]
    words += ["--card", "24", "--models-dir", str(MODELS)]
    began = time.monotonic()
    done = subprocess.run(words, capture_output=True, check=True)
    return time.monotonic() - began, json.loads(done.stdout)


def main() -> None:
    """Measure and print."""
    if not (MODELS / DEMO_MODEL).exists():
        sys.exit("The demo's model is missing: runner fetch demo")
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_contracts(folder / "contracts.jsonl")
        spec = f"model: {DEMO_MODEL}\ndata: contracts.jsonl\neval_split: 0\n"
        (folder / "contracts.yaml").write_text(spec)
        size = (folder / "contracts.jsonl").stat().st_size
        found = [measure(folder) for _ in range(runs)]
    seconds = [one for one, _ in found]
    told = found[0][1]
    print(f"{told['rows']} rows, {size / 1e6:.1f} MB, the longest {told['longest']} tokens")
    print(f"median {statistics.median(seconds):.1f} s of {runs}: {[round(s, 1) for s in seconds]}")


if __name__ == "__main__":
    main()
