"""Turns one drop of the demo's spec into seconds: to the claim, each stage, and the first step.

    .venv/bin/python benchmarks/first_step.py [RUNS]

Warm: one run goes first and does not count. Needs the demo's model (`runner fetch demo`).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from runner.commands.demo import SPEC, packaged_data
from runner.contract.models import DEMO_MODEL

MODELS = Path("models")


def measure() -> dict[str, float]:
    """Run the demo's spec for one step; give seconds since the drop."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "jobs" / "data").mkdir(parents=True)
        (root / "jobs" / "data" / "building-law.jsonl").write_bytes(packaged_data())
        words = [sys.executable, "-m", "runner.cli", "watch", "--jobs-dir", str(root / "jobs")]
        words += ["--outputs-dir", str(root / "outputs"), "--models-dir", str(MODELS)]
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not (root / "jobs" / "STATUS.txt").exists():
                time.sleep(0.05)
            time.sleep(3)  # the data is old by the time people drop a spec
            dropped = time.time()
            (root / "jobs" / "demo.yaml").write_text(SPEC.format(model=DEMO_MODEL, steps=8))
            metrics: list[Path] = []
            while not metrics or not metrics[0].read_text().strip():
                time.sleep(0.05)
                metrics = list(root.glob("outputs/*/*/attempts/01-*/metrics.jsonl"))
            first = time.time() - dropped
            (log,) = root.glob("outputs/*/*/log.jsonl")
            events = [json.loads(line) for line in log.read_text().splitlines()]
        finally:
            child.terminate()
            child.wait(120)
    found = {"first_step": round(first, 1)}
    for event in events:
        when = event["time"]
        name = event["event"].split(": ", 1)[-1]
        found[name] = round(datetime.fromisoformat(when).timestamp() - dropped, 1)
    return found


if __name__ == "__main__":
    if not (MODELS / DEMO_MODEL).exists():
        sys.exit("The demo's model is missing: runner fetch demo")
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    measure()
    all_runs = [measure() for _ in range(runs)]
    for run in all_runs:
        print(json.dumps(run), flush=True)
    print("first_step median", statistics.median(run["first_step"] for run in all_runs))
