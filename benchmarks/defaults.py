"""Our defaults beside the published rules: held-out loss on three real data sets, three seeds each.

    python benchmarks/defaults.py --make DATA                          # anywhere: makes the data
    python benchmarks/defaults.py --data DATA --models MODELS --results FILE --minutes 6 --jobs 4

Making needs the packages licensedcode-data, zaragoza-construction-faq and codespell; measuring
needs the product's own requirements and the model (`runner fetch demo --models-dir MODELS`), no
network. Each run is the product's own train stage on rows that its prepare stage made, and prints a
line of JSON; started again with the same file it goes on where it stopped, and prints the table.

Ours: rate 2e-4, batch 16, 2 epochs, rank 16. The rules: rate 5e-5 x 10 x (2000 / width)^p, p 0.781
for Llama's family and 0.0775 for Qwen's (Thinking Machines, 2025); batch 8 below 2,000 rows; 3
epochs below 1,000 rows, with the best checkpoint kept, as ours is, too. Each rule alone, and all
together.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from gpu_box import TrainBox
from licences import read_documents, split, write_rows

from runner.commands.demo import packaged_data
from runner.contract.batch import BatchPlan
from runner.contract.layout import RunFolder, StageFolder, new_run_id
from runner.contract.models import DEMO_MODEL
from runner.contract.stage_io import (
    PreparePlan,
    PrepareResult,
    TrainResult,
    read_message,
    write_message,
)

SETS = ("faq", "licences", "spelling")
FAQ_HELD_OUT, LICENCES, LICENCES_HELD_OUT, SPELLING, SPELLING_HELD_OUT = 60, 800, 150, 4000, 200
LONGEST = 3000  # characters of a licence
SEEDS = (42, 43, 44)
_SPEC = """\
model: '{model}'
data: learned.jsonl
eval_data: held-out.jsonl
method: {method}
training: {{learning_rate: {rate}, effective_batch_size: {batch}, epochs: {epochs}, seed: {seed}}}
"""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What one training is given."""

    name: str
    rate: float = 2e-4
    batch: int = 16
    epochs: int = 2


def rate_by_width(config: dict[str, Any]) -> float:
    """Give the published rate of a model's width and family."""
    power = 0.0775 if "qwen" in str(config["model_type"]) else 0.781
    return float(f"{5e-5 * 10 * (2000 / config['hidden_size']) ** power:.2g}")


def arms(rows: int, config: dict[str, Any]) -> list[Arm]:
    """List what differs from ours on a data set of so many rows, ours first."""
    rate = rate_by_width(config)
    batch, epochs = 8 if rows < 2000 else 16, 3 if rows < 1000 else 2
    asked = [
        Arm(name="ours"),
        Arm(name="rate", rate=rate),
        Arm(name="batch", batch=batch),
        Arm(name="epochs", epochs=epochs),
        Arm(name="all rules", rate=rate, batch=batch, epochs=epochs),
    ]
    found: dict[tuple[float, int, int], Arm] = {}
    for one in asked:
        found.setdefault((one.rate, one.batch, one.epochs), one)
    return list(found.values())


# -- the data ------------------------------------------------------------------------------------


def make(folder: Path) -> None:
    """Write the three data sets."""
    faq = [json.loads(line) for line in packaged_data().decode().splitlines()]
    faq.sort(key=lambda row: _hash(row["instruction"]))
    _write(folder / "faq", faq[FAQ_HELD_OUT:], faq[:FAQ_HELD_OUT])
    documents = read_documents(None, longest=LONGEST)
    learned, held_out = split(documents, rows=LICENCES, held_out=LICENCES_HELD_OUT)
    write_rows(folder / "licences" / "learned.jsonl", learned)
    write_rows(folder / "licences" / "held-out.jsonl", held_out)
    words = list(_spelling())
    tested = words[:SPELLING_HELD_OUT]
    right = {row["completion"] for row in tested}
    others = [row for row in words if row["completion"] not in right]
    _write(folder / "spelling", others[:SPELLING], tested)
    for name in SETS:
        rows = (folder / name / "learned.jsonl").read_text().count("\n")
        print(f"{name}: {rows} rows learned")


def _spelling() -> Iterator[dict[str, str]]:
    """Read codespell's words with one correction, by right word, so that none is on both sides."""
    found = None
    for file in importlib.metadata.files("codespell") or []:
        if file.name == "dictionary.txt":
            found = Path(os.fspath(file.locate()))
    if found is None:
        sys.exit("No list of words: pip install codespell")
    pairs = dict(re.findall(r"^([a-z]+)->([a-z]+)$", found.read_text(), re.MULTILINE))
    for wrong in sorted(pairs, key=lambda wrong: (_hash(pairs[wrong]), wrong)):
        yield {"prompt": f"Correct the spelling: {wrong}", "completion": pairs[wrong]}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write(folder: Path, learned: list[dict[str, str]], held_out: list[dict[str, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("learned", learned), ("held-out", held_out)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


# -- the measuring -------------------------------------------------------------------------------


def spec_of(arm: Arm, args: argparse.Namespace, seed: int) -> str:
    """Write the spec of one training."""
    return _SPEC.format(
        model=args.model,
        method=args.method,
        rate=arm.rate,
        batch=arm.batch,
        epochs=arm.epochs,
        seed=seed,
    )


def prepare(root: Path, data: Path, args: argparse.Namespace) -> tuple[Path, PrepareResult]:
    """Prepare a data set by the product's own stage; give its folder and what it says."""
    run = RunFolder(root / "job" / new_run_id())
    run.prepared.mkdir(parents=True)
    run.spec.write_text(spec_of(Arm(name="ours"), args, SEEDS[0]))
    plan = PreparePlan(models_dir=str(args.models.absolute()), jobs_dir=str(data.absolute()))
    write_message(StageFolder(run.prepared).plan, plan)
    words = [sys.executable, "-m", "runner.training", "prepare", str(run.prepared)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{data.name} cannot be prepared:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return run.prepared, read_message(StageFolder(run.prepared).result, PrepareResult)


def train(
    root: Path, prepared: Path, rows: int, arm: Arm, seed: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Train once; give the figures."""
    steps = args.steps or max(1, -(-rows // arm.batch) * arm.epochs)
    box = TrainBox(root, args.models.absolute(), spec_of(arm, args, seed), ())
    box.run.prepared.rmdir()
    box.run.prepared.symlink_to(prepared)
    plan: BatchPlan | None = BatchPlan(
        per_device_batch_size=min(arm.batch, args.at_once),
        gradient_accumulation_steps=max(1, arm.batch // args.at_once),
    )
    began, result = time.monotonic(), None
    while plan is not None:
        code, result = box.train(plan, total_steps=steps, seconds=3600)
        if code == 0 or result is None:
            break
        plan = result.next_batch_plan
    if result is None or result.best_eval_loss is None:
        sys.exit(f"{prepared}, {arm}: it did not train\n{box.log()}")
    return {**figures(result), "steps": steps, "seconds": round(time.monotonic() - began, 1)}


def figures(result: TrainResult) -> dict[str, Any]:
    """Give what a training came to: the held-out loss per token, at its best and its end."""
    return {
        "best": round(result.best_eval_loss or 0.0, 5),
        "best_step": int((result.best_checkpoint or "-0").rpartition("-")[2]),
        "last": round(result.metrics["eval_loss"], 5),
        "device": result.environment.get("device"),
    }


def known(results: Path) -> list[dict[str, Any]]:
    """Read the lines of an earlier start."""
    return (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )


def measure(args: argparse.Namespace) -> None:
    """Train what is not done yet, until the time is over; print the table of what is known.

    Seed by seed, so that what is cut off still compares all arms on all data sets.
    """
    config = json.loads((args.models / args.model / "config.json").read_bytes())
    done = {(one["set"], one["arm"], one["seed"]) for one in known(args.results)}
    wanted = [
        (name, arm, seed)
        for seed in args.seeds
        for name in args.sets
        for arm in arms((args.data / name / "learned.jsonl").read_text().count("\n"), config)
        if (name, arm.name, seed) not in done and (not args.arms or arm.name in args.arms)
    ]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        measuring = Measuring(Path(folder), args)
        for future in [pool.submit(measuring.one, *one) for one in wanted]:
            future.result()
    print("\n".join(table(known(args.results))))


class Measuring:
    """Trains one by one, or some at a time: a small model leaves much of a card idle."""

    def __init__(self, root: Path, args: argparse.Namespace) -> None:
        """Begin with nothing prepared."""
        self.root, self.args = root, args
        self.ends = time.monotonic() + args.minutes * 60 if args.minutes else None
        self.longest = 0.0
        self.prepared: dict[str, tuple[Path, PrepareResult]] = {}
        self.lock = threading.Lock()

    def one(self, name: str, arm: Arm, seed: int) -> None:
        """Train once, print its line and keep it; nothing where it would end too late."""
        with self.lock:
            if self.ends is not None and time.monotonic() + self.longest > self.ends:
                print(f"no time: {name}, {arm.name}, seed {seed}", flush=True)
                return
            if name not in self.prepared:
                root = self.root / name
                self.prepared[name] = prepare(root, self.args.data / name, self.args)
        folder, found = self.prepared[name]
        got = train(self.root / name, folder, found.train_rows, arm, seed, self.args)
        asked = {"set": name, "arm": arm.name, "seed": seed, "rows": found.train_rows}
        line = json.dumps({**asked, **asdict(arm), **got})
        with self.lock:
            self.longest = max(self.longest, got["seconds"])
            print(line, flush=True)
            with self.args.results.open("a") as file:
                file.write(line + "\n")


def table(lines: list[dict[str, Any]]) -> list[str]:
    """Give the table: each arm's best held-out loss, and its difference to ours, seed by seed."""
    head = (
        "| data | rows | arm | rate | batch | epochs | held-out loss at its best | at its end "
        "| less than ours by, seed by seed |"
    )
    said = [head, "|---|---|---|---|---|---|---|---|---|"]
    for name in dict.fromkeys(one["set"] for one in lines):
        of_set = [one for one in lines if one["set"] == name]
        ours = {one["seed"]: one["best"] for one in of_set if one["arm"] == "ours"}
        for arm in dict.fromkeys(one["arm"] for one in of_set):
            some = [one for one in of_set if one["arm"] == arm]
            first, best = some[0], [one["best"] for one in some]
            spread = f" ± {stdev(best):.4f}" if len(best) > 1 else ""
            less = [ours[one["seed"]] - one["best"] for one in some if one["seed"] in ours]
            apart = "" if arm == "ours" else ", ".join(f"{value:+.4f}" for value in less)
            said.append(
                f"| {name} | {first['rows']:,} | {arm} | {first['rate']:g} | {first['batch']} | "
                f"{first['epochs']} | {mean(best):.4f}{spread} | "
                f"{mean(one['last'] for one in some):.4f} | {apart} |"
            )
    return said


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--make", type=Path, help="make the data in this folder, and end")
    parser.add_argument("--data", type=Path, help="the folder that was made")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--results", type=Path, default=Path("defaults.jsonl"))
    parser.add_argument("--minutes", type=float, help="begin no run that would end later")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--arms", nargs="+", help="these alone, such as ours 'all rules'")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--method", default="qlora", choices=["lora", "qlora"])
    parser.add_argument("--steps", type=int, help="of each run, to see that it works")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time: 4 on a card")
    parser.add_argument("--at-once", type=int, default=16, help="rows of a pass")
    args = parser.parse_args(words)
    if args.make is None and args.data is None:
        parser.error("give --make FOLDER or --data FOLDER")
    return args


if __name__ == "__main__":
    given = parse()
    if given.make is not None:
        make(given.make)
    else:
        measure(given)
