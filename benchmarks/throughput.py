"""Tokens a second and memory of QLoRA training: plain TRL, Unsloth and ours in turn on one GPU.

    python benchmarks/throughput.py [--shape 8B] [--caps 8.6 14.5 22.5 none] [--only ours trl]

The workload: a model of Llama 3's shape with random weights, NF4, rank 16 on all linear layers, an
effective batch of 16 rows of lognormal lengths (64 to 2,048 tokens), 14 steps of which the last 10
are counted. Everybody gets the same rows in the same order; tokens are counted without padding.
Ours is the whole train stage, a fresh process with its callbacks and metrics, timed by the clock
in its metrics. A cap is set on torch's allocator, so the context (about 0.6 GiB) comes on top on
all sides. Unsloth runs where it can be imported, or from ``--unsloth`` (a folder of packages).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from gpu_box import FIRST_WORD, TrainBox, learnable_words, make_model

from runner.contract.batch import BatchPlan
from runner.forecast.work import GIB

STEPS, SKIPPED, EFFECTIVE = 14, 4, 16
_CONTEXT = 0.6  # GiB, as measured: our cap counts it
_SPEC = """\
model: '{shape}'
data: rows.jsonl
method: {method}
eval_split: 0
speed: {speed}
lora: {{r: 16, alpha: 16}}
training: {{max_steps: 14, effective_batch_size: 16, learning_rate: 2e-4}}
"""
_PEER = r"""
import json, os, sys, time
given = json.loads(sys.argv[1])
os.environ.update(HF_HUB_OFFLINE="1", UNSLOTH_DISABLE_STATISTICS="1")
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
if given["who"] == "unsloth":
    import unsloth
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer
total = torch.cuda.get_device_properties(0).total_memory
if given["cap"]:
    torch.cuda.set_per_process_memory_fraction(given["cap"] * 2**30 / total)
rows = Dataset.from_list([{"input_ids": row} for row in json.load(open(given["rows"]))])
lora = dict(r=16, lora_alpha=16, lora_dropout=0.0, target_modules=[
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
if given["who"] == "unsloth":
    from unsloth import FastLanguageModel
    model, tokenizer = FastLanguageModel.from_pretrained(
        given["model"], max_seq_length=given["longest"], load_in_4bit=True,
        dtype=torch.bfloat16, local_files_only=True)
    model = FastLanguageModel.get_peft_model(model, random_state=1, **lora,
        use_gradient_checkpointing="unsloth" if given["checkpointing"] else False)
    adapter, more = None, {"gradient_checkpointing": False}
else:
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.bfloat16,
        device_map={"": 0}, attn_implementation="sdpa", quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16))
    adapter = LoraConfig(task_type="CAUSAL_LM", **lora)
    more = {"gradient_checkpointing": given["checkpointing"]}
class Clock(TrainerCallback):
    at = []
    def on_step_end(self, *_, **__):
        torch.cuda.synchronize(); Clock.at.append(time.time())
class InOrder(SFTTrainer):
    def _get_train_sampler(self, *_, **__): return SequentialSampler(self.train_dataset)
trainer = InOrder(model=model, train_dataset=rows, processing_class=tokenizer, peft_config=adapter,
    callbacks=[Clock()], args=SFTConfig(output_dir=given["out"], max_steps=given["steps"],
    per_device_train_batch_size=given["batch"],
    gradient_accumulation_steps=given["effective"] // given["batch"],
    logging_steps=1, save_strategy="no", report_to="none", max_length=given["longest"], bf16=True,
    learning_rate=2e-4, warmup_steps=0, disable_tqdm=True, **more))
torch.cuda.reset_peak_memory_stats()
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print("ROW " + json.dumps({"at": Clock.at, "losses": losses,
    "allocated": torch.cuda.max_memory_allocated() / 2**30,
    "reserved": torch.cuda.max_memory_reserved() / 2**30}))
"""


LENGTH = 0  # of every row; 0: drawn


def lengths() -> list[int]:
    """Draw the rows' lengths: lognormal, median 490; or all of one length."""
    if LENGTH:
        return [LENGTH] * (STEPS * EFFECTIVE)
    dice = random.Random(0)
    return [
        min(2048, max(64, int(dice.lognormvariate(6.2, 0.7)))) for _ in range(STEPS * EFFECTIVE)
    ]


def in_order() -> None:
    """Let Trainer read the rows as they lie: every contestant's step holds the same."""
    from torch.utils.data import SequentialSampler
    from transformers import Trainer

    def sampler(trainer: Any, *_: Any, **__: Any) -> Any:
        return SequentialSampler(trainer.train_dataset)

    Trainer._get_train_sampler = sampler  # noqa: SLF001  (no other way to the order)


def ours(
    folder: Path, models: Path, args: argparse.Namespace, cap: float, *, fast: bool
) -> dict[str, Any]:
    """Run our train stage."""
    spec = _SPEC.format(shape=args.shape, method=args.method, speed=args.speed)
    box = TrainBox(folder, models, spec, lengths())
    status, result = box.train(
        BatchPlan(per_device_batch_size=EFFECTIVE, gradient_accumulation_steps=1),
        trouble=in_order,
        total_steps=STEPS,
        gpu_memory_bytes=int((cap + _CONTEXT) * GIB) if cap else None,
        fast=fast,
    )
    text = box.stage().log("train").read_text()
    for line in text.splitlines():
        if "path" in line.lower() or "speed:" in line or "does not fit" in line or args.verbose:
            print("    " + line, flush=True)
    if status or result is None:
        return {"failed": f"status {status}: {text[-1500:]}"}
    lines = box.lines()
    context = result.environment["gpu_context_bytes"]
    return {
        "at": [datetime.fromisoformat(line["time"]).timestamp() for line in lines],
        "losses": [round(line["loss"], 4) for line in lines],
        "allocated": (result.peak_gpu_allocated_bytes or 0) / GIB,
        "reserved": ((result.peak_gpu_memory_bytes or 0) - context) / GIB,
        "context": context / GIB,
        "gpu_memory": result.metrics["gpu_memory"],
    }


def peer(
    folder: Path, models: Path, args: argparse.Namespace, cap: float, **how: Any
) -> dict[str, Any]:
    """Run a peer's script in a process of its own."""
    dice = random.Random(1)
    wanted = how.pop("rows", None) or lengths()
    rows = [[FIRST_WORD + word for word in learnable_words(n, dice)] for n in wanted]
    folder.mkdir(parents=True)
    (folder / "rows.json").write_text(json.dumps(rows))
    given = {
        "model": str(models / args.shape),
        "rows": str(folder / "rows.json"),
        "out": str(folder / "out"),
        "cap": cap,
        "steps": STEPS,
        "effective": EFFECTIVE,
        "longest": max(wanted),
        **how,
    }
    environment = dict(os.environ)
    if how["who"] == "unsloth" and args.unsloth:
        environment["PYTHONPATH"] = f"{args.unsloth}:{environment.get('PYTHONPATH', '')}"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PEER, json.dumps(given)],
            cwd=folder,  # Unsloth writes compiled files where it is started
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": "more than 400 s"}
    for line in done.stdout.splitlines():
        if line.startswith("ROW "):
            return dict(json.loads(line[4:]))
    return {"failed": (done.stdout + done.stderr)[-1500:]}


def unsloth(
    folder: Path, models: Path, args: argparse.Namespace, cap: float, **how: Any
) -> dict[str, Any]:
    """Run Unsloth at the largest batch that fits: of those tried on an H200, the quickest."""
    found: dict[str, Any] = {}
    for batch in (16, 8, 4):
        found = peer(folder / str(batch), models, args, cap, who="unsloth", batch=batch, **how)
        if "OutOfMemory" not in str(found.get("failed")):
            return {"batch": batch, **found}
    return found


def contestants(
    folder: Path, models: Path, args: argparse.Namespace, caps: list[float]
) -> list[tuple[str, float, Any]]:
    """List who runs under which cap, each as something to call."""
    found: list[tuple[str, float, Any]] = []
    for number, cap in enumerate(caps):  # one may be named twice
        name = f"{number}-{cap or 'none'}"
        if "ours" in args.only:
            found.append(
                (
                    "ours",
                    cap,
                    lambda c=cap, n=name: ours(folder / f"ours{n}", models, args, c, fast=True),
                )
            )
        if "plain" in args.only:
            found.append(
                (
                    "ours, plain path",
                    cap,
                    lambda c=cap, n=name: ours(folder / f"plain{n}", models, args, c, fast=False),
                )
            )
        if "unsloth" in args.only:
            how: dict[str, Any] = {"checkpointing": bool(cap)}
            label = f"Unsloth{', checkpointing' if cap else ''}"
            found.append(
                (
                    label,
                    cap,
                    lambda c=cap, n=name, h=how: unsloth(
                        folder / f"unsloth{n}", models, args, c, **h
                    ),
                )
            )
    if "trl" in args.only:
        how = {"who": "trl", "batch": 4, "checkpointing": True}
        found.append(
            (
                "TRL, 4 × 4, checkpointing",
                0.0,
                lambda h=how: peer(folder / "trl", models, args, 0.0, **h),
            )
        )
    return found


def speed(found: dict[str, Any]) -> float:
    """Give the tokens a second of the steps that count."""
    seconds = found["at"][-1] - found["at"][SKIPPED - 1]
    return sum(lengths()[SKIPPED * EFFECTIVE : STEPS * EFFECTIVE]) / seconds


def main() -> None:
    """Run everybody, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="8B")
    parser.add_argument("--method", default="qlora", choices=["qlora", "lora"])
    parser.add_argument("--speed", default="exact", choices=["exact", "fp8"])
    parser.add_argument("--caps", nargs="+", default=["8.6", "14.5", "22.5", "none"])
    parser.add_argument("--only", nargs="+", default=["ours", "unsloth", "trl"])
    parser.add_argument("--unsloth", default="", help="a folder of packages with Unsloth in it")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", type=Path, help="where the model is made, or is already")
    parser.add_argument("--verbose", action="store_true", help="the train stage's whole log")
    parser.add_argument("--length", type=int, default=0, help="tokens of every row")
    args = parser.parse_args()
    global LENGTH  # noqa: PLW0603  (all contestants read it)
    LENGTH = args.length
    import torch  # its device's name; the contestants run in processes of their own

    caps = [0.0 if cap == "none" else float(cap) for cap in args.caps]
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    card = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    conditions = f"{card}, torch {torch.__version__}"
    print(
        f"{conditions}; {args.shape}, {args.method}, r 16, {STEPS} steps, {SKIPPED} not counted",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as scratch:
        models = args.models or Path(scratch) / "models"
        make_model(models, args.shape)
        table = [
            "| cap, GiB | who | tokens/s | allocated / reserved, GiB | last loss |",
            "|---|---|---|---|---|",
        ]
        everything = []
        for who, cap, run in contestants(Path(scratch), models, args, caps):
            found = run()
            everything.append({"who": who, "cap": cap, **found})
            if "failed" in found:
                print(f"FAILED {who}, cap {cap}: {found['failed']}", flush=True)
                line = f"| {cap or 'none'} | {who} | failed | | |"
            else:
                memory = f"{found['allocated']:.2f} / {found['reserved']:.2f}"
                last = f"{found['losses'][-1]:.4f}"
                batch = found.get("batch")
                size = f", {batch} × {EFFECTIVE // batch}" if batch else ""
                line = (
                    f"| {cap or 'none'} | {who}{size} | {speed(found):,.0f} | {memory} | {last} |"
                )
            print(line, flush=True)
            table.append(line)
            if args.json:
                args.json.write_text(json.dumps({"conditions": conditions, "runs": everything}))
    print("\n".join(table))


if __name__ == "__main__":
    main()
