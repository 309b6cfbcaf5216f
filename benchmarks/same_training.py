"""Is it the same training? 200 steps on the fast path beside PEFT's, and PEFT's beside itself.

    python benchmarks/same_training.py [--shape 8B-6] [--steps 200] [--method qlora] [--fp8] [--cpu]

Six layers of 8B's width learn a language of 64 words, an effective batch of 16 rows of 256 tokens.
Runs of our whole train stage from the same weights, on the same rows in the same steps: the fast
path; the plain one (PEFT, bitsandbytes and TRL as they are, in bf16), four rows at once; the plain
one in fp32, the truth that both round; and the plain one again with other micro-batches, which is
what PEFT is apart from itself when nothing but its rounding changes. (Turning the rows of a batch
round changes no product of any row, so it shows the rounding of sums alone.) ``--fp8`` adds a run
with `speed: fp8`, ``--cpu`` learns a small model on this machine's processor, in bf16 all the same.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from gpu_box import TrainBox, make_model

from runner.contract.batch import BatchPlan

EFFECTIVE = 16
_SPEC = """\
model: '{shape}'
data: rows.jsonl
method: {method}
eval_split: 0
speed: {speed}
lora: {{r: 16, alpha: 32}}
training: {{max_steps: {steps}, effective_batch_size: 16, learning_rate: {rate}}}
"""


def _in_order(*, turned_round: bool) -> None:
    from torch.utils.data import Sampler
    from transformers import Trainer

    class Order(Sampler[int]):
        """The rows as they lie; or each batch's last row first."""

        def __init__(self, rows: int) -> None:
            self._rows = rows

        def __len__(self) -> int:
            return self._rows

        def __iter__(self) -> Any:
            for start in range(0, self._rows, EFFECTIVE):
                batch = range(start, min(start + EFFECTIVE, self._rows))
                yield from (reversed(batch) if turned_round else batch)

    def sampler(trainer: Any, *_: Any, **__: Any) -> Any:
        return Order(len(trainer.train_dataset))

    Trainer._get_train_sampler = sampler  # noqa: SLF001  (no other way to the order)


def in_order() -> None:
    """Let Trainer read the rows as they lie."""
    _in_order(turned_round=False)


def turned_round() -> None:
    """Let Trainer read each batch from its end."""
    _in_order(turned_round=True)


@dataclass(frozen=True, kw_only=True)
class How:
    """What sets a run apart from the others."""

    fast: bool
    turned: bool = False
    fp8: bool = False
    at_once: int = 4
    compute: str = "bfloat16"


def losses_of(
    name: str, folder: Path, models: Path, args: argparse.Namespace, how: How
) -> list[float]:
    """Train, and give the loss of each step."""
    spec = _SPEC.format(
        shape=args.shape,
        method=args.method,
        steps=args.steps,
        speed="fp8" if how.fp8 else "exact",
        rate=args.rate,
    )
    box = TrainBox(folder / name, models, spec, [args.length] * (args.steps * EFFECTIVE))
    began = time.monotonic()
    status, result = box.train(
        BatchPlan(
            per_device_batch_size=how.at_once, gradient_accumulation_steps=EFFECTIVE // how.at_once
        ),
        trouble=turned_round if how.turned else in_order,
        total_steps=args.steps,
        seconds=600,
        fast=how.fast,
        compute=how.compute,
        device="cpu" if args.cpu else "auto",
    )
    if status or result is None or result.metrics["path"] != ("fast" if how.fast else "plain"):
        sys.exit(f"{name}: status {status}\n{box.log()}")
    found = [float(line["loss"]) for line in box.lines()]
    seconds = time.monotonic() - began
    print(f"{name}: {found[0]:.4f} → {found[-1]:.4f}, {seconds:.0f} s", flush=True)
    return found


def row(name: str, found: list[float], wanted: list[float]) -> str:
    """Give a line of the table: how far two curves are apart."""
    apart = [abs(a - b) for a, b in zip(found, wanted, strict=True)]
    worst = max(range(len(apart)), key=apart.__getitem__)
    early, late = apart[: len(apart) // 10], apart[len(apart) // 2 :]
    return (
        f"| {name} | {apart[worst]:.4f} (step {worst + 1}) | {sum(early) / len(early):.5f} | "
        f"{sum(apart) / len(apart):.5f} | {max(late):.4f} | {sum(late) / len(late):.5f} | "
        f"{apart[-1]:.5f} |"
    )


def main() -> None:
    """Run them all, and print how far they are apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", help="8B-6; on a processor, small")
    parser.add_argument("--method", default="qlora", choices=["qlora", "lora"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--length", type=int, default=256, help="tokens of each row")
    parser.add_argument("--rate", default="2e-4", help="the learning rate")
    parser.add_argument("--fp8", action="store_true", help="a run with speed: fp8, too")
    parser.add_argument("--only-fast", action="store_true", help="held against the fast path's own")
    parser.add_argument("--cpu", action="store_true", help="a small model on the processor")
    parser.add_argument("--models", type=Path, help="where the model is made, or is already")
    args = parser.parse_args()
    import torch  # its device's name; the runs have processes of their own

    args.cpu = args.cpu or not torch.cuda.is_available()
    args.shape = args.shape or ("small" if args.cpu else "8B-6")
    card = "CPU" if args.cpu else torch.cuda.get_device_name(0)
    print(f"{card}, torch {torch.__version__}; {args.shape}, {args.method}, {args.steps} steps")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        models = args.models or folder / "models"
        make_model(models, args.shape)

        runs = {"fast path": How(fast=True)}
        if args.fp8:
            runs["fast path, speed: fp8"] = How(fast=True, fp8=True)
        if not args.only_fast:
            runs |= {
                "PEFT, 4 rows at once": How(fast=False),
                "PEFT, 2 rows at once": How(fast=False, at_once=2),
                "PEFT, 16 rows at once": How(fast=False, at_once=16),
                "PEFT, rows turned round": How(fast=False, turned=True),
                "PEFT in fp32": How(fast=False, compute="float32"),
            }
        found = {name: losses_of(name, folder, models, args, how) for name, how in runs.items()}
    if args.only_fast:
        print("\n".join(table("the fast path's", found, "fast path")))
        return
    for line in (
        *table("PEFT's", found, "PEFT, 4 rows at once"),
        "",
        *table("PEFT's in fp32", found, "PEFT in fp32"),
    ):
        print(line)
    print("step by step, the first twenty:")
    for name, losses in found.items():
        print(f"{name}: {' '.join(f'{loss:.4f}' for loss in losses[:20])}")


def table(whose: str, found: dict[str, list[float]], wanted: str) -> list[str]:
    """Give the lines of a table: how far each curve is from one of them."""
    return [
        f"| apart from {whose} | largest | first tenth | mean | largest, 2nd half | mean | last |",
        "|---|---|---|---|---|---|---|",
        *(row(name, losses, found[wanted]) for name, losses in found.items() if name != wanted),
    ]


if __name__ == "__main__":
    main()
