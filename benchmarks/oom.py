"""Turns one spec into the cost of an out-of-memory: ours with and without looking ahead, and HF's.

    python benchmarks/oom.py [--repeat 3] [--only ours faults hf] [--json FILE]

The workload: 20 steps of 16 rows of some 500 tokens, one row of 8,192 tokens in step 15, a model of
Llama 3.2 1B's shape with random weights, rows in a language that can be learned, a cap of 14 GiB.
Ours is the whole daemon from a run's started_at to its ended_at, on both sides of the comparison:

* uncapped: the reference;
* probe on: capped, as the product works;
* probe off: capped, forecast and probe switched off, so that memory runs out in mid-run.

The losses of capped runs are held against the uncapped one's, and the same comparison is shown to
fail for a run with one optimizer step left out or made twice. HF is the Trainer's own
``auto_find_batch_size`` under the same cap, as its tutorials write it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from gpu_box import TrainBox, learnable_words, make_model, word_of

from runner.contract.batch import BatchPlan
from runner.contract.layout import Outputs, RunFolder
from runner.contract.record import RunRecord, read_record
from runner.forecast.work import GIB

STEPS, EFFECTIVE, LONG_STEP = 20, 16, 15
TOLERANCE = 1e-2  # relative, of losses in bf16
_SPEC = """\
model: '{shape}'
data: rows.jsonl
format: prompt-completion
eval_split: 0
training:
  max_steps: 20
  effective_batch_size: 16
  batch_size: 16
  activation_checkpointing: true
  learning_rate: {rate}
  lr_scheduler: constant
  warmup_ratio: 0
{limits}"""
_DAEMON = """
import json, sys
from pathlib import Path
from runner.commands.watch import watch
from runner.contract.settings import Settings
given = json.loads(sys.argv[1])
for name in ("jobs_dir", "outputs_dir", "models_dir"):
    given[name] = Path(given[name])
sys.exit(watch(Settings(**given, once=True, settle_seconds=0.1, min_free_bytes=0)))
"""
_HF = """
import json, os, sys, time
began = time.time()
os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer
given = json.loads(sys.argv[1])
torch.zeros(1, device="cuda")
total = torch.cuda.get_device_properties(0).total_memory
if given["cap"]:
    torch.cuda.set_per_process_memory_fraction((given["cap"] - 0.5 * 2**30) / total)
rows = [json.loads(line) for line in open(given["rows"])]
tokenizer = AutoTokenizer.from_pretrained(given["model"])
model = AutoModelForCausalLM.from_pretrained(
    given["model"], dtype=torch.bfloat16, device_map={"": 0},
    quantization_config=BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16))
class Count(TrainerCallback):
    passes = 0
    losses = []
    def on_substep_end(self, *a, **k): Count.passes += 1
    def on_step_end(self, args, state, control, **k):
        Count.passes += 1; Count.batch = state.train_batch_size
    def on_log(self, args, state, control, logs=None, **k):
        if logs and "loss" in logs: Count.losses.append((state.global_step, logs["loss"]))
trainer = SFTTrainer(
    model=model, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
    peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"),
    callbacks=[Count],
    args=SFTConfig(
        output_dir=given["out"], max_steps=20, per_device_train_batch_size=16, max_length=8192,
        auto_find_batch_size=True, learning_rate=given["rate"], lr_scheduler_type="constant",
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, bf16=True))
trainer.train()
trainer.save_model(given["out"])
print("HF " + json.dumps({"seconds": time.time() - began, "steps_taken": Count.passes,
    "final_batch": trainer._train_batch_size,
    "accumulation": trainer.args.gradient_accumulation_steps,
    "losses": Count.losses[-20:]}))
"""


def order_of_rows(root: Path, models: Path, count: int) -> list[int]:
    """Ask the trainer itself in which order it takes so many rows: it depends on nothing else."""
    make_model(models, "tiny")
    spec = (
        "model: tiny\ndata: rows.jsonl\neval_split: 0\n"
        f"training: {{max_steps: {STEPS}, effective_batch_size: {EFFECTIVE}}}\n"
    )
    box = TrainBox(root / "order", models, spec, [8] * count)
    plan = BatchPlan(per_device_batch_size=EFFECTIVE, gradient_accumulation_steps=1)
    status, _ = box.train(plan, total_steps=STEPS, probe=False)
    assert status == 0, box.log()
    return [row for line in box.lines() for row in line["rows"]]


def write_rows(path: Path, long_row: int, long_tokens: int, short_tokens: int) -> None:
    """Write the rows, one of them long."""
    dice = random.Random(3)
    with path.open("w") as file:
        for number in range(STEPS * EFFECTIVE):
            # 16 tokens or so are the template's.
            length = short_tokens + dice.randint(-short_tokens // 4, short_tokens // 4)
            length = long_tokens - 32 if number == long_row else length
            words = [word_of(word) for word in learnable_words(length, dice)]
            row = {"prompt": "".join(words[:8]), "completion": "".join(words[8:])}
            file.write(json.dumps(row) + "\n")


def run_ours(
    root: Path,
    models: Path,
    rows: Path,
    *,
    shape: str,
    rate: float,
    cap_gib: float | None,
    ahead: bool,
) -> tuple[RunFolder, RunRecord]:
    """Drop the spec into a daemon of its own and give the run."""
    jobs, outputs = root / "jobs", root / "outputs"
    jobs.mkdir(parents=True)
    (jobs / "rows.jsonl").write_bytes(rows.read_bytes())
    limits = f"limits: {{gpu_memory_gib: {cap_gib:g}}}\n" if cap_gib else ""
    (jobs / "oom.yaml").write_text(_SPEC.format(shape=shape, rate=rate, limits=limits))
    settings = {
        "jobs_dir": str(jobs),
        "outputs_dir": str(outputs),
        "models_dir": str(models),
        "look_ahead": ahead,
        "cache_dir": None,
    }
    log = (root / "daemon.log").open("wb")
    subprocess.run(
        [sys.executable, "-c", _DAEMON, json.dumps(settings)], stdout=log, stderr=log, check=False
    )
    log.close()
    runs = Outputs(outputs).runs()
    assert runs, (root / "daemon.log").read_text()[-2000:]
    return runs[-1], read_record(runs[-1].record)


def curve(run: RunFolder, record: RunRecord) -> list[dict[str, Any]]:
    """Give the steps that count: each attempt's within first_step..last_step."""
    found: list[dict[str, Any]] = []
    for attempt in record.attempts:
        path = run.attempt(attempt.number, attempt.token) / "metrics.jsonl"
        counted = range(attempt.first_step or 1, (attempt.last_step or 0) + 1)
        lines = map(json.loads, path.read_text().splitlines() if path.exists() else ())
        found += [line for line in lines if "loss" in line and line["step"] in counted]
    return found


def compare(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> dict[str, Any]:
    """Say whether a curve is another one: steps, learning rates, rows and losses."""
    off = [abs(a["loss"] / b["loss"] - 1) for a, b in zip(found, wanted, strict=False)]
    norms = [abs(a["grad_norm"] / b["grad_norm"] - 1) for a, b in zip(found, wanted, strict=False)]
    rates, rows = ([[x[k] for x in c] for c in (found, wanted)] for k in ("learning_rate", "rows"))
    return {
        "steps_once": [line["step"] for line in found] == list(range(1, STEPS + 1)),
        "same_rates": rates[0] == rates[1],
        "same_rows": rows[0] == rows[1],
        "worst_loss": max(off, default=1.0),
        "worst_grad_norm": max(norms, default=1.0),
        "passes": len(found) == STEPS and max(off) <= TOLERANCE,
    }


def where_time_went(run: RunFolder, attempt: Any) -> dict[str, float]:
    """Give the seconds from an attempt's start to its first step, its last step and its end."""
    path = run.attempt(attempt.number, attempt.token) / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    times = [datetime.fromisoformat(line["time"]).timestamp() for line in lines if "loss" in line]
    told = {"end": attempt.ended_at.timestamp()} if attempt.ended_at else {}
    if times:
        told |= {"first step": times[0], "last step": times[-1]}
    start = attempt.started_at.timestamp()
    return {name: round(at - start, 2) for name, at in sorted(told.items(), key=lambda x: x[1])}


class StepGoesWrong:
    """The fault that the comparison must see: one optimizer step left out, or made twice."""

    def __init__(self, step: int, times: int) -> None:
        self.step, self.times = step, times

    def __call__(self) -> None:
        """Arrange it in the child."""
        import torch

        inner = torch.optim.AdamW.step
        taken: list[int] = []

        def step(optimizer: Any, *args: Any, **more: Any) -> Any:
            taken.append(1)
            for _ in range(self.times if len(taken) == self.step else 1):
                inner(optimizer, *args, **more)

        torch.optim.AdamW.step = step  # type: ignore[method-assign]


def ours(
    root: Path, models: Path, rows: Path, given: argparse.Namespace, number: int
) -> Iterator[dict[str, Any]]:
    """Run the three kinds in turn, so that a slow minute of the machine hits them all."""
    kinds: dict[str, dict[str, Any]] = {
        "uncapped": {"cap_gib": None, "ahead": True},
        "probe on": {"cap_gib": given.cap, "ahead": True},
        "probe off": {"cap_gib": given.cap, "ahead": False},
    }
    for kind, how in kinds.items():
        folder = root / f"{kind.replace(' ', '-')}-{number}"
        run, record = run_ours(folder, models, rows, shape=given.shape, rate=given.rate, **how)
        if kind == "uncapped" and not (root / "reference").exists():
            (root / "reference").symlink_to(run.root)
        answer = describe(kind, record, curve(run, record), reference_curve(root))
        yield answer | {"until": [where_time_went(run, one) for one in record.attempts]}
        if record.state.value != "succeeded":
            for log in sorted(run.root.rglob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-1500:]}", flush=True)


def reference_curve(root: Path) -> list[dict[str, Any]]:
    """Give the first uncapped run's steps."""
    run = RunFolder((root / "reference").resolve())
    return curve(run, read_record(run.record))


def describe(
    kind: str, record: RunRecord, lines: list[dict[str, Any]], reference: list[dict[str, Any]]
) -> dict[str, Any]:
    """Say what a run took, and how it compares with the reference."""
    seconds = 0.0
    if record.started_at and record.ended_at:
        seconds = (record.ended_at - record.started_at).total_seconds()
    return {
        "kind": kind, "seconds": round(seconds, 2), "state": record.state.value,
        "attempts": [
            {"plan": str(a.batch_plan), "outcome": a.outcome, "reason": a.reason,
             "first": a.first_step, "last": a.last_step,
             "seconds": (a.ended_at - a.started_at).total_seconds() if a.ended_at else None,
             "peak_gib": round((a.peak_gpu_memory_bytes or 0) / GIB, 2)}
            for a in record.attempts],
        "plan_at_the_end": str(record.batch_plan),
        "forecast_gib": round(record.forecast.get("gpu_memory_bytes", 0) / GIB, 2),
        "effective": record.effective_batch_size,
        "error": record.error and record.error.message,
        "tokens_per_second": record.metrics.get("tokens_per_second"),
        **compare(lines, reference),
        "losses": [round(line["loss"], 4) for line in lines],
    }  # fmt: skip


def faults(root: Path, models: Path) -> Iterator[dict[str, Any]]:
    """Train the reference again, well and with each fault, and compare."""
    reference = RunFolder((root / "reference").resolve())
    record = read_record(reference.record)
    wanted = curve(reference, record)
    assert record.batch_plan is not None
    for name, times in (("nothing wrong", 1), ("left out", 0), ("made twice", 2)):
        spec = reference.spec.read_text()
        box = TrainBox(root / name.replace(" ", "-"), models, spec, [])
        box.run.prepared.rmdir()
        box.run.prepared.symlink_to(reference.prepared)
        status, _ = box.train(
            record.batch_plan, total_steps=STEPS, trouble=StepGoesWrong(step=6, times=times)
        )
        assert status == 0, box.log()
        yield {"kind": f"step 6 {name}", **compare(box.lines(), wanted)}


def hf(
    root: Path, models: Path, rows: Path, given: argparse.Namespace, number: int
) -> Iterator[dict[str, Any]]:
    """Run the Trainer's own way under the cap, and without one."""
    for cap in (None, given.cap):
        told = {
            "model": str(models / given.shape), "rows": str(rows), "rate": given.rate,
            "cap": cap and cap * GIB, "out": str(root / f"hf-{number}-{cap}"),
        }  # fmt: skip
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", _HF, json.dumps(told)],
            capture_output=True,
            text=True,
            check=False,
        )
        answer: dict[str, Any] = {"kind": "HF capped" if cap else "HF uncapped"}
        answer["seconds"] = round(time.monotonic() - began, 2)
        for line in done.stdout.splitlines():
            if line.startswith("HF "):
                answer["said"] = json.loads(line[3:])
        if "said" not in answer:
            answer["failed"] = (done.stderr or done.stdout)[-1500:]
        yield answer


def measure(root: Path, models: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Make the rows and measure what was asked for, round by round."""
    order = order_of_rows(root, models, STEPS * EFFECTIVE)
    rows = root / "rows.jsonl"
    write_rows(rows, order[(LONG_STEP - 1) * EFFECTIVE + 5], given.long, given.short)
    parts = given.only or ["ours", "faults", "hf"]
    for number in range(given.repeat):
        if "ours" in parts:
            yield from ours(root, models, rows, given, number)
        if "hf" in parts and number < given.hf_repeat:
            yield from hf(root, models, rows, given, number)
        if "faults" in parts and number == 0 and (root / "reference").exists():
            yield from faults(root, models)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--hf-repeat", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=["ours", "faults", "hf"])
    parser.add_argument("--shape", default="1B")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--cap", type=float, default=14.0, help="GiB")
    parser.add_argument("--long", type=int, default=8192, help="tokens of the long row")
    parser.add_argument("--short", type=int, default=500, help="tokens of the others, about")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path, help="every figure; one that is there is gone on from")
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    if given.json and given.json.exists():
        found = [json.loads(line) for line in given.json.read_text().splitlines()]
    with tempfile.TemporaryDirectory(dir=given.work) as temporary:
        root = Path(temporary)
        models = (given.work or root) / "models"
        make_model(models, given.shape)
        for one in measure(root, models, given):
            found.append(one)
            print(json.dumps(one), flush=True)
            if given.json:
                given.json.write_text("\n".join(json.dumps(one) for one in found) + "\n")
    print_table(found)


def print_table(found: list[dict[str, Any]]) -> None:
    """Print what a person compares: medians, and each against the uncapped run."""
    medians = {}
    for kind in dict.fromkeys(one["kind"] for one in found):
        seconds = [one["seconds"] for one in found if one["kind"] == kind and "seconds" in one]
        if seconds:
            medians[kind] = statistics.median(seconds)
    print("| run | seconds, median | × uncapped | worst loss | same rows and rates |")
    print("|---|---|---|---|---|")
    for kind, seconds in medians.items():
        base = medians.get("HF uncapped" if kind.startswith("HF") else "uncapped", seconds)
        losses = [one["worst_loss"] for one in found if one["kind"] == kind and "worst_loss" in one]
        same = [one["same_rows"] and one["same_rates"] for one in found if one["kind"] == kind
                and "same_rows" in one]  # fmt: skip
        worst = f"{max(losses):.1e}" if losses else "–"
        yes = "–" if not same else "yes" if all(same) else "no"
        print(f"| {kind} | {seconds:.1f} | {seconds / base:.2f} | {worst} | {yes} |")


if __name__ == "__main__":
    main()
