"""Tokens a second on a CPU: plain TRL and our train stage in turn, from the same weights and rows.

    python benchmarks/cpu.py [--rounds 3] [--steps 6] [--shape SmolLM2-8]

Eight layers of SmolLM2's width with random weights (or another shape of gpu_box.py), NF4, rank 16
on all linear layers, an effective batch of 8 rows of drawn lengths (32 to 320 tokens) as 4 × 2, the
same rows in the same order. The first two steps do not count. Ours is the whole train stage, a
process of its own with callbacks and metrics; both compute in what our stage chooses for this CPU.
Wanted: at least 1.0 times TRL.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from gpu_box import FIRST_WORD, TrainBox, learnable_words, make_model
from throughput import in_order

from runner.contract.batch import BatchPlan
from runner.training.fit.model import find_machine

EFFECTIVE, BATCH, SKIPPED = 8, 4, 2
_MOST_SECONDS = 1800  # of one run
_SPEC = """\
model: '{shape}'
data: rows.jsonl
eval_split: 0
lora: {{r: 16, alpha: 16}}
training: {{max_steps: {steps}, effective_batch_size: 8, learning_rate: 2e-4}}
"""
_TRL = r"""
import json, sys, time
given = json.loads(sys.argv[1])
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer
dtype = getattr(torch, given["compute"])
rows = Dataset.from_list([{"input_ids": row} for row in json.load(open(given["rows"]))])
model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=dtype, device_map={"": "cpu"},
    attn_implementation="sdpa", quantization_config=BitsAndBytesConfig(load_in_4bit=True,
    bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype))
class Clock(TrainerCallback):
    at = []
    def on_step_end(self, *_, **__): Clock.at.append(time.time())
class InOrder(SFTTrainer):
    def _get_train_sampler(self, *_, **__): return SequentialSampler(self.train_dataset)
trainer = InOrder(model=model, train_dataset=rows,
    processing_class=AutoTokenizer.from_pretrained(given["model"]), callbacks=[Clock()],
    peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=16, target_modules="all-linear"),
    args=SFTConfig(output_dir=given["out"], max_steps=given["steps"], use_cpu=True,
    per_device_train_batch_size=given["batch"], gradient_checkpointing=False,
    gradient_accumulation_steps=given["effective"] // given["batch"], logging_steps=1,
    save_strategy="no", report_to="none", max_length=None, bf16=given["compute"] == "bfloat16",
    learning_rate=2e-4, disable_tqdm=True))
trainer.train()
print("AT " + json.dumps(Clock.at))
"""


def lengths(steps: int) -> list[int]:
    """Draw the rows' lengths."""
    dice = random.Random(0)
    return [min(320, max(32, int(dice.lognormvariate(4.8, 0.6)))) for _ in range(steps * EFFECTIVE)]


def ours(folder: Path, model: Path, steps: int) -> list[float]:
    """Train with our stage; give when each step ended."""
    spec = _SPEC.format(shape=model.name, steps=steps)
    box = TrainBox(folder, model.parent, spec, lengths(steps))
    plan = BatchPlan(per_device_batch_size=BATCH, gradient_accumulation_steps=EFFECTIVE // BATCH)
    status, _ = box.train(
        plan, trouble=in_order, total_steps=steps, device="cpu", seconds=_MOST_SECONDS
    )
    if status:
        sys.exit(box.log())
    return [datetime.fromisoformat(line["time"]).timestamp() for line in box.lines()]


def trl(folder: Path, model: Path, steps: int, compute: str) -> list[float]:
    """Train with plain TRL; give when each step ended."""
    folder.mkdir(parents=True)
    dice = random.Random(1)
    rows = [[FIRST_WORD + word for word in learnable_words(n, dice)] for n in lengths(steps)]
    (folder / "rows.json").write_text(json.dumps(rows))
    given = {
        "model": str(model),
        "rows": str(folder / "rows.json"),
        "out": str(folder / "out"),
        "steps": steps,
        "batch": BATCH,
        "effective": EFFECTIVE,
        "compute": compute,
    }
    done = subprocess.run(
        [sys.executable, "-c", _TRL, json.dumps(given)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=_MOST_SECONDS,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith("AT "):
            return [float(one) for one in json.loads(line[3:])]
    sys.exit((done.stdout + done.stderr)[-3000:])


def speed(at: list[float], steps: int) -> float:
    """Give the tokens a second of the steps that count."""
    counted = sum(lengths(steps)[SKIPPED * EFFECTIVE :])
    return counted / (at[-1] - at[SKIPPED - 1])


def main() -> None:
    """Run both in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", default="SmolLM2-8")
    parser.add_argument("--steps", type=int, default=6)
    args = parser.parse_args()
    compute = find_machine("cpu").compute
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {compute}, {args.shape}",
        flush=True,
    )
    found: dict[str, list[float]] = {"TRL, 4 × 2": [], "ours": []}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        make_model(root / "models", args.shape)
        model = root / "models" / args.shape
        for number in range(args.rounds):
            at = trl(root / f"trl{number}", model, args.steps, compute)
            found["TRL, 4 × 2"].append(speed(at, args.steps))
            at = ours(root / f"ours{number}", model, args.steps)
            found["ours"].append(speed(at, args.steps))
    print("| who | tokens/s, each round | median |")
    print("|---|---|---|")
    for who, speeds in found.items():
        each = ", ".join(f"{one:,.0f}" for one in speeds)
        print(f"| {who} | {each} | {statistics.median(speeds):,.0f} |")
    theirs, mine = (statistics.median(speeds) for speeds in found.values())
    print(f"ours: {mine / theirs:.2f} times TRL (wanted: at least 1.0)")


if __name__ == "__main__":
    main()
