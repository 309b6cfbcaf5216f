"""Long rows: tokens a second and memory of one row a step, ours and Unsloth in turn on one GPU.

    python benchmarks/context.py [--tokens 65536] [--caps 15.4 23.4] [--longest]

The model is 8B in Llama 3's shape with random weights, NF4, rank 16 on all linear layers; an
optimizer step has one row, of which three are made and the last two count. Ours is the whole train
stage at the plan that the forecast chooses. A cap is set on torch's allocator, so CUDA's context
(about 0.6 GiB) comes on top on both sides: 15.4 makes 16 GiB. ``--longest`` asks the forecast for
the longest row under each cap and trains on it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from forecast import card
from gpu_box import TrainBox, config_of, make_model
from throughput import peer

from runner.forecast.choose import choose
from runner.forecast.lengths import Lengths
from runner.forecast.model_shape import read_shape
from runner.forecast.what_fits import longest_row
from runner.forecast.work import GIB, Box, Work
from runner.spec.read_spec import read_spec

STEPS = 3
_CONTEXT = 0.6  # GiB, as measured: our cap counts it
_SPEC = """\
model: '{shape}'
data: rows.jsonl
eval_split: 0
lora: {{r: 16, alpha: 16}}
training: {{max_steps: {steps}, effective_batch_size: 1, learning_rate: 2e-4}}
"""


def work_of(shape: str, tokens: int) -> Work:
    """Describe the run."""
    sizes = read_shape(config_of(shape))
    assert sizes is not None
    spec = read_spec(_SPEC.format(shape=shape, steps=STEPS).encode(), file_name="long.yaml")
    work = Work.of(spec, sizes, Lengths.of([tokens] * STEPS), total_steps=STEPS)
    return replace(work, fast=True)


def box_of(cap: float) -> Box:
    """Give the card under its cap."""
    budget = int((cap + _CONTEXT) * GIB) if cap else None
    return Box(budget_bytes=budget, context_bytes=int(_CONTEXT * GIB), **card())


def ours(folder: Path, models: Path, shape: str, cap: float, tokens: int) -> dict[str, Any]:
    """Run our train stage at the plan that is forecast to fit."""
    spec = _SPEC.format(shape=shape, steps=STEPS)
    found = choose(work_of(shape, tokens), box_of(cap))
    box = TrainBox(folder, models, spec, [tokens] * STEPS)
    status, result = box.train(
        found.batch_plan,
        total_steps=STEPS,
        gpu_memory_bytes=int((cap + _CONTEXT) * GIB) if cap else None,
        seconds=500,
    )
    text = box.stage().log("train").read_text()
    for line in text.splitlines():
        if "path" in line.lower() or "does not fit" in line:
            print("    " + line, flush=True)
    if status or result is None:
        return {"failed": f"status {status}: {text[-1500:]}"}
    at = [datetime.fromisoformat(line["time"]).timestamp() for line in box.lines()]
    context = result.environment["gpu_context_bytes"]
    return {
        "speed": tokens * (len(at) - 1) / (at[-1] - at[0]),
        "allocated": (result.peak_gpu_allocated_bytes or 0) / GIB,
        "reserved": ((result.peak_gpu_memory_bytes or 0) - context) / GIB,
        "forecast": found.gpu_memory_bytes / GIB - _CONTEXT,
        "plan": str(result.batch_plan),
    }


def unsloth(folder: Path, models: Path, args: argparse.Namespace, cap: float) -> dict[str, Any]:
    """Run Unsloth with its checkpointing, which offloads."""
    found = peer(
        folder,
        models,
        args,
        cap,
        who="unsloth",
        batch=1,
        effective=1,
        checkpointing=True,
        rows=[args.tokens] * STEPS,
        steps=STEPS,
    )
    if "failed" in found:
        return found
    at = found["at"]
    return {**found, "speed": args.tokens * (len(at) - 1) / (at[-1] - at[0])}


def main() -> None:
    """Run both under each cap, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="8B")
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--caps", nargs="+", default=["15.4", "23.4"])
    parser.add_argument("--only", nargs="+", default=["ours", "unsloth"])
    parser.add_argument("--longest", action="store_true")
    parser.add_argument("--unsloth", default="", help="a folder of packages with Unsloth in it")
    parser.add_argument("--models", type=Path, help="where the model is made, or is already")
    args = parser.parse_args()
    import torch

    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    gpu = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    print(f"{gpu}, torch {torch.__version__}; {args.shape}, one row a step, {STEPS} steps")
    table = [
        "| cap | who | tokens | tokens/s | allocated / reserved | forecast |",
        "|" + "---|" * 6,
    ]
    with tempfile.TemporaryDirectory() as scratch:
        models = args.models or Path(scratch) / "models"
        make_model(models, args.shape)
        for cap in [0.0 if one == "none" else float(one) for one in args.caps]:
            runs: list[tuple[str, int]] = [(who, args.tokens) for who in args.only]
            if args.longest:
                most = longest_row(work_of(args.shape, 131_072), box_of(cap)) or 131_072
                runs.append(("ours", most))
            for number, (who, tokens) in enumerate(runs):
                folder = Path(scratch) / f"{who}{cap}{number}"
                if who == "ours":
                    found = ours(folder, models, args.shape, cap, tokens)
                else:
                    found = unsloth(folder, models, args, cap)
                head = f"| {cap or 'none'} | {who} | {tokens:,} |"
                if "failed" in found:
                    print(f"FAILED {head} {found['failed']}", flush=True)
                    table.append(f"{head} failed | | |")
                    continue
                memory = f"{found['allocated']:.2f} / {found['reserved']:.2f}"
                told = f"{found['forecast']:.2f}" if "forecast" in found else ""
                table.append(f"{head} {found['speed']:,.0f} | {memory} | {told} |")
                print(table[-1], json.dumps(found.get("plan")), flush=True)
    print("\n".join(table))


if __name__ == "__main__":
    main()
