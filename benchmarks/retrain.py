"""Retraining on a growing data set: afresh, or going on from the adapter in use, and what is lost.

Held-out loss of the old rows and of the newest ones, for each way (``start_from``, ``replay``).

    .venv/bin/python benchmarks/retrain.py [--model demo-smollm2] [--models models] [--rows 64]
        [--held 16] [--weeks 3] [--seed 42] [--epochs 2] [--batch 8] [--rate 2e-4] [--method qlora]
        [--device cpu] [--arms afresh "going on, replay 0.3"]

The rows are those of the packaged FAQ in its own order, so each week brings other subjects. Every
run goes through the whole product. A week's file lies beside the earlier ones, and so do its
held-out rows, in a file of their own. Seconds are those of the train stage alone.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.commands.demo import packaged_data
from runner.contract.layout import Outputs, RunFolder
from runner.contract.models import DEMO_MODEL
from runner.contract.record import read_record
from runner.contract.states import State
from runner.training.data.token_table import read_row_table

ARMS = {
    "afresh": "start_from: fresh",
    "going on, new rows": "start_from: current\nreplay: 0",
    "going on, replay 0.3": "start_from: current\nreplay: 0.3",
    "going on, all rows": "start_from: current",
}
_ANSWER_CHARS = 300  # longer rows only make it slower


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line says."""

    model: str
    models: Path
    rows: int
    weeks: int
    seed: int
    epochs: float
    method: str
    held: int
    batch: int
    rate: float
    device: str
    arms: list[str]


def write_weeks(jobs: Path, asked: Asked) -> None:
    """Write a file of rows and one of held-out rows for each week; all lie there from the start."""
    rows = [json.loads(line) for line in packaged_data().decode().splitlines()]
    short = [row for row in rows if len(row["output"]) <= _ANSWER_CHARS]
    whole = asked.rows + asked.held
    assert len(short) >= whole * asked.weeks, "the FAQ has fewer rows"
    for week in range(asked.weeks):
        here = short[week * whole : (week + 1) * whole]
        parts: dict[str, list[Any]] = {"week": [], "held": []}
        every = whole / asked.held
        held = {math.floor(number * every) for number in range(asked.held)}
        for number, row in enumerate(here):
            parts["held" if number in held else "week"].append(row)
        for name, some in parts.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in some)
            (jobs / f"{name}-{week + 1}.jsonl").write_text(text, encoding="utf-8")


def run_week(box: Path, week: int, lines: str, asked: Asked) -> RunFolder:
    """Run the job on the data that has come by a week; give the run."""
    jobs, outputs = box / "jobs", Outputs(box / "outputs")
    held = ", ".join(f"held-{n + 1}.jsonl" for n in range(week))
    data = ", ".join(f"week-{n + 1}.jsonl" for n in range(week))
    spec = f"""\
model: {asked.model}
data: [{data}]
eval_data: [{held}]
method: {asked.method}
training:
  effective_batch_size: {asked.batch}
  epochs: {asked.epochs}
  learning_rate: {asked.rate}
  seed: {asked.seed}
  eval_steps: 100000
evaluation: {{samples: 0, forgetting: false, recital: false}}
promote: {{when: always}}
{lines}
"""
    (jobs / "faq.yaml").write_text(spec)
    words = [sys.executable, "-m", "runner.cli", "watch", "--once", "--device", asked.device]
    words += ["--jobs-dir", str(jobs), "--outputs-dir", str(outputs.root)]
    words += ["--models-dir", str(asked.models.absolute())]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    run = outputs.runs_of("faq")[-1]
    record = read_record(run.record)
    if record.state is not State.SUCCEEDED:
        sys.exit(f"{record.error}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return run


def losses(run: RunFolder, when: str = "after") -> dict[int, float]:
    """Give the held-out loss in nats per learned token of each week's rows; before: the base's."""
    record, rows = read_record(run.record), read_row_table(run.prepared / "rows.arrow")
    files = {int(row): int(file) for row, file in zip(rows.row, rows.file, strict=True)}
    total: dict[int, float] = {}
    tokens: dict[int, int] = {}
    for one in json.loads((run.evaluation / "losses.json").read_bytes()):
        name = record.data[files[one["row"]]].path
        week = int(name.partition("-")[2].partition(".")[0])
        total[week] = total.get(week, 0.0) + one[when] * one["tokens"]
        tokens[week] = tokens.get(week, 0) + one["tokens"]
    return {week: total[week] / tokens[week] for week in sorted(total)}


def measured(run: RunFolder, arm: str, week: int) -> dict[str, Any]:
    """Put a run's figures together."""
    record, found = read_record(run.record), losses(run)
    old = [found[one] for one in found if one < week]
    return {
        "arm": arm,
        "week": week,
        "rows": record.metrics["train_rows"],
        "steps": record.total_steps,
        "seconds": round(sum(one.seconds or 0.0 for one in record.attempts)),
        "old": round(sum(old) / len(old), 3) if old else None,
        "new": round(found[week], 3),
        "base": {name: round(value, 3) for name, value in losses(run, "before").items()},
        "each": {name: round(value, 3) for name, value in found.items()},
    }


def measure(asked: Asked) -> None:
    """Run every arm from the same first week on."""
    with tempfile.TemporaryDirectory(prefix="retrain-") as folder:
        first = Path(folder) / "first"
        (first / "jobs").mkdir(parents=True)
        write_weeks(first / "jobs", asked)
        run = run_week(first, 1, "", asked)
        print(json.dumps(measured(run, "first", 1)), flush=True)
        for arm in asked.arms:
            shutil.copytree(first, Path(folder) / arm, symlinks=True)
        for week in range(2, asked.weeks + 1):
            for arm in asked.arms:
                run = run_week(Path(folder) / arm, week, ARMS[arm], asked)
                print(json.dumps(measured(run, arm, week)), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--weeks", type=int, default=3)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--held", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--method", choices=("qlora", "lora"), default="qlora")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="cpu")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    measure(Asked(**vars(parser.parse_args())))
