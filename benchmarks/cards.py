"""Which model fits which card: the forecast for the law firm's job, as README's table shows it.

    .venv/bin/python benchmarks/cards.py

No card is needed: it is the arithmetic of runner/forecast/, whose memory was within 1.9% of what a
card took (docs/measurements.md); its times on cards other than an H100 were not measured.
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from gpu_box import config_of

from runner.forecast.choose import choose, smallest_plan
from runner.forecast.forecast import forecast
from runner.forecast.lengths import Lengths
from runner.forecast.model_shape import read_shape
from runner.forecast.what_fits import longest_row
from runner.forecast.work import GIB, Box, Work
from runner.spec.spec import JobSpec

ROWS, HELD_OUT, EPOCHS, BATCH = 800, 100, 3, 16  # held out: the default of 800 rows
MEDIAN_TOKENS, SPREAD, LONGEST = 2000, 0.5, 4096  # contracts with their annotations
CARDS = {  # GiB, and the card's dense 16-bit rate with sums in fp32, from NVIDIA's data sheets
    "12 GB (RTX 3060)": (12, 51e12),
    "16 GB (RTX 4080)": (16, 97e12),
    "24 GB (RTX 4090)": (24, 165e12),
}
SHAPES = ("1B", "3B", "8B")


def law_firm() -> list[int]:
    """Draw the lengths of 800 contracts, always the same ones; the last ones are held out."""
    dice = random.Random(7)
    drawn = [round(MEDIAN_TOKENS * dice.lognormvariate(0, SPREAD)) for _ in range(ROWS)]
    return [min(LONGEST, one) for one in drawn]


def work_of(shape: str, rows: list[int], held_out: list[int]) -> Work:
    """Give the job: QLoRA with the defaults."""
    spec = JobSpec.model_validate(
        {"name": "contracts", "model": shape, "data": ["data/contracts.jsonl"]}
    )
    sizes = read_shape(config_of(shape))
    assert sizes is not None
    return Work.of(
        spec,
        sizes,
        Lengths.of(rows),
        total_steps=EPOCHS * -(-len(rows) // BATCH),
        held_out_rows=len(held_out),
        held_out_tokens=sum(held_out),
        fast=True,
    )


def row(card: str, shape: str) -> dict[str, Any]:
    """Forecast one model on one card."""
    gib, flops = CARDS[card]
    box = Box(gpu_memory_bytes=gib * GIB, flops=flops)
    lengths = law_firm()
    work = work_of(shape, lengths[:-HELD_OUT], lengths[-HELD_OUT:])
    found = choose(work, box)
    plain = replace(work, fast=False)
    least = forecast(plain, smallest_plan(plain), box)
    endless = work_of(shape, [131072], [])
    longest = longest_row(endless, box) or 131072
    return {
        "least": least.gpu_memory_bytes / GIB,
        "memory": found.gpu_memory_bytes / GIB,
        "minutes": (found.seconds or 0.0) / 60,
        "fits": found.fits,
        "longest": longest,
        "disk": found.disk_bytes / GIB,
    }


def main() -> None:
    """Print the table."""
    print(f"{ROWS} rows, median {MEDIAN_TOKENS} tokens, at most {LONGEST}; {EPOCHS} epochs, QLoRA")
    print("| card | model | memory, at least | as planned | longest row | time |")
    print("|---|---|---|---|---|---|")
    for card in CARDS:
        for shape in SHAPES:
            one = row(card, shape)
            memory = f"{one['memory']:.1f} GiB" if one["fits"] else "does not fit"
            print(
                f"| {card} | {shape} | {one['least']:.1f} GiB | {memory} "
                f"| {one['longest']:,} tokens | {one['minutes']:.0f} min |"
            )


if __name__ == "__main__":
    main()
