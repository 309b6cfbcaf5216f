"""Turns a table of configurations into forecast against measured peak GPU memory, on this card.

    python benchmarks/forecast.py [--only fit|check] [--rows 1 2 ...] [--json FILE]

Each row is the product's own train stage on random weights of the shape: the probe's worst batch,
then two optimizer steps. The constants of `runner/forecast/memory.py` were fitted to the rows
marked ``fit``; the others had no part in it. Rows marked ``fast`` go through the fast path, at the
plan that the forecast chooses, with the lengths of `benchmarks/throughput.py`; the others through
the plain one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from gpu_box import TrainBox, config_of, make_model
from throughput import lengths as of_throughput

from runner.card.memory import read_gpu
from runner.contract.batch import BatchPlan
from runner.forecast.choose import choose
from runner.forecast.forecast import forecast
from runner.forecast.lengths import Lengths
from runner.forecast.model_shape import read_shape
from runner.forecast.seconds import step_seconds
from runner.forecast.work import GIB, Box, Work
from runner.spec.read_spec import read_spec


@dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration."""

    part: str
    """``fit``, ``check`` or ``fast``."""
    shape: str
    method: str
    batch: int | None
    """None: the plan that the forecast itself chooses under the cap."""
    length: int
    checkpointing: bool = False
    cap_gib: float | None = None


def _row(part: str, shape: str, method: str, batch: int | None, length: int, **more: Any) -> Row:
    return Row(part=part, shape=shape, method=method, batch=batch, length=length, **more)


ON: dict[str, Any] = {"checkpointing": True}
ROWS = (
    _row("fit", "1B", "qlora", 4, 512),
    _row("check", "1B", "qlora", 4, 2048, **ON),
    _row("fit", "1B", "qlora", 16, 2048, **ON),
    _row("check", "1B", "qlora", 1, 8192),
    _row("check", "1B", "lora", 16, 512),
    _row("fit", "1B", "lora", 4, 8192, **ON),
    _row("check", "1B", "qlora", 4, 2048, cap_gib=14.5),
    _row("fit", "3B", "qlora", 1, 8192, **ON),
    _row("check", "3B", "qlora", 4, 512),
    _row("check", "3B", "lora", 16, 2048, **ON),
    _row("fit", "3B", "lora", 1, 2048),
    _row("check", "3B", "qlora", None, 2048, cap_gib=14.5),
    _row("fit", "8B", "qlora", 4, 2048, **ON),
    _row("check", "8B", "qlora", 1, 512),
    _row("check", "8B", "qlora", 16, 512, **ON),
    _row("fit", "8B", "qlora", 1, 2048),
    _row("check", "8B", "lora", 1, 2048, **ON),
    _row("check", "8B", "qlora", None, 2048, cap_gib=14.5),
    _row("check", "8B", "qlora", None, 8192, cap_gib=22.5),
    _row("fast", "8B", "qlora", None, 2048, cap_gib=9.2),
    _row("fast", "8B", "qlora", None, 2048, cap_gib=15.1),
    _row("fast", "8B", "qlora", None, 2048, cap_gib=23.1),
    _row("fast", "8B", "qlora", None, 2048),
    _row("fast", "8B", "lora", None, 2048),
    _row("fast", "1B", "qlora", None, 2048, cap_gib=7.5),
    _row("fast", "1B", "qlora", None, 2048),
    _row("fast", "3B", "qlora", None, 2048, cap_gib=11.5),
    _row("fast", "3B", "qlora", None, 2048),
    _row("fast", "Qwen3-4B", "qlora", None, 2048, cap_gib=15.1),
    _row("fast", "Mistral-7B", "qlora", None, 2048, cap_gib=15.1),
    _row("fast", "Gemma-2B", "qlora", None, 2048, cap_gib=15.1),
)
FAST_STEPS = 14  # as many as in benchmarks/throughput.py: holes between passes come with time


def measure(row: Row, models: Path, root: Path) -> dict[str, Any]:
    """Run one configuration and give both figures."""
    # Rows are nearly as long as each other, as the longest rows of real data are.
    fast = row.part == "fast"
    steps = FAST_STEPS if fast else 2
    count = steps * (row.batch or 16)
    lengths = [row.length - 3 * (n % 8) for n in range(count)]
    if fast:
        lengths = of_throughput()[:count]
    effective = row.batch or 16
    spec = (
        f"model: '{row.shape}'\ndata: rows.jsonl\nmethod: {row.method}\neval_split: 0\n"
        f"training: {{max_steps: {steps}, effective_batch_size: {effective}}}\n"
    )
    shape = read_shape(config_of(row.shape))
    assert shape is not None
    work = Work.of(
        read_spec(spec.encode(), file_name="job.yaml"),
        shape,
        Lengths.of(lengths),
        total_steps=steps,
    )
    work = replace(work, fast=fast)
    cap = int(row.cap_gib * GIB) if row.cap_gib else None
    box = Box(budget_bytes=cap, **card())
    if row.batch is None:
        plan = choose(work, box).batch_plan
    else:
        plan = BatchPlan(
            per_device_batch_size=row.batch,
            gradient_accumulation_steps=1,
            activation_checkpointing=row.checkpointing,
        )
    train = TrainBox(root, models, spec, lengths)
    began = time.monotonic()
    status, result = train.train(
        plan, gpu_memory_bytes=cap, probe=True, fast=fast, total_steps=steps
    )
    answer: dict[str, Any] = {
        "part": row.part, "shape": row.shape, "method": row.method, "length": row.length,
        "cap_gib": row.cap_gib, "plan": str(plan), "status": status,
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    if result is None or result.peak_gpu_memory_bytes is None:
        return answer | {"log": train.log()}
    used = result.batch_plan
    answer |= {"used": str(used), "checkpointing": used.activation_checkpointing}
    answer |= {"batch": used.per_device_batch_size, "metrics": result.metrics.get("gpu_memory")}
    told = forecast(work, used, box)
    context = int(result.environment.get("gpu_context_bytes", 0))
    measured = result.peak_gpu_memory_bytes
    return answer | {
        "forecast_gib": round(told.gpu_memory_bytes / GIB, 2),
        "measured_gib": round(measured / GIB, 2),
        "allocated_gib": round((result.peak_gpu_allocated_bytes or 0) / GIB, 2),
        "context_gib": round(context / GIB, 3),
        "error": round(told.gpu_memory_bytes / measured - 1, 4),
        "parts": {k: round(v / GIB, 3) for k, v in told.gpu_memory.model_dump().items()},
        "fits": told.fits,
        "seconds_forecast": step_seconds(work, used, box),
        "seconds_measured": _step_seconds(train.lines()),
        "speed": [line["tokens_per_second"] for line in train.lines()],
        "log": "" if status == 0 else train.log(),
    }


def _step_seconds(lines: list[dict[str, Any]]) -> float | None:
    """Give the seconds of a step, by the clock, the first half of the steps not counted."""
    at = [datetime.fromisoformat(line["time"]).timestamp() for line in lines]
    half = len(at) // 2
    return (at[-1] - at[half]) / (len(at) - 1 - half) if len(at) - 1 > half else None


@cache
def card() -> dict[str, Any]:
    """Give the card's memory and rate as the box would see them."""
    gpu = read_gpu()
    return {} if gpu is None else {"gpu_memory_bytes": gpu.total_bytes, "flops": gpu.flops}


def main() -> None:
    """Measure the rows asked for and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=["fit", "check", "fast"])
    parser.add_argument("--shape", help="only this shape")
    parser.add_argument("--rows", type=int, nargs="*", help="only these, counted from 1")
    parser.add_argument("--json", type=Path, help="every figure; one that is there is gone on from")
    parser.add_argument("--work", type=Path, help="where models and runs are made")
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    if given.json and given.json.exists():
        found = [json.loads(line) for line in given.json.read_text().splitlines()]
    measured = {one["row"] for one in found}
    with tempfile.TemporaryDirectory(dir=given.work) as temporary:
        root = Path(temporary)
        models = (given.work or root) / "models"
        for number, row in enumerate(ROWS, start=1):
            if given.only not in (None, row.part) or given.shape not in (None, row.shape):
                continue
            if number in measured or (given.rows and number not in given.rows):
                continue
            make_model(models, row.shape)
            found.append({"row": number} | measure(row, models, root / str(number)))
            print(json.dumps(found[-1]), flush=True)
            if given.json:
                given.json.write_text("\n".join(json.dumps(one) for one in found) + "\n")
    print_table(found)


def print_table(found: list[dict[str, Any]]) -> None:
    """Print what a person compares."""
    print("| part | model | method | plan | tokens | cap | forecast | measured | error |")
    print("|---|---|---|---|---|---|---|---|---|")
    for one in found:
        if "error" not in one:
            print(f"| {one['part']} | {one['shape']} | failed with {one['status']} |")
            continue
        cap = f"{one['cap_gib']:g}" if one["cap_gib"] else "–"
        print(
            f"| {one['part']} | {one['shape']} | {one['method']} | {one['used']} | {one['length']} "
            f"| {cap} | {one['forecast_gib']:.2f} | {one['measured_gib']:.2f} "
            f"| {one['error']:+.1%} |"
        )
    errors = {
        p: [abs(o["error"]) for o in found if o["part"] == p and "error" in o]
        for p in ("fit", "check", "fast")
    }
    for part, values in errors.items():
        if values:
            print(f"{part}: {len(values)} rows, worst {max(values):.1%}")


if __name__ == "__main__":
    main()
