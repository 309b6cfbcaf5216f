"""Is it the same training? 200 steps on the fast path beside PEFT's, and PEFT's beside itself.

    python benchmarks/same_training.py [--shape 8B-6] [--steps 200] [--method qlora] [--fp8]

Six layers of 8B's width learn a language of 64 words, an effective batch of 16 rows of 256 tokens.
Three runs of our whole train stage from the same weights, on the same rows in the same order: the
fast path, the plain one (PEFT, bitsandbytes and TRL as they are, in bf16), and the plain one with
the rows of each batch turned round. The last two differ by rounding alone: their distance is what
the fast path's is held against. ``--fp8`` adds a run with `speed: fp8`. Three minutes on an H200.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from gpu_box import TrainBox, make_model

from runner.contract.batch import BatchPlan

EFFECTIVE, LENGTH = 16, 256
_SPEC = """\
model: '{shape}'
data: rows.jsonl
method: {method}
eval_split: 0
speed: {speed}
lora: {{r: 16, alpha: 32}}
training: {{max_steps: {steps}, effective_batch_size: 16, learning_rate: 2e-4}}
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


def losses_of(
    name: str,
    folder: Path,
    models: Path,
    args: argparse.Namespace,
    *,
    fast: bool,
    order: Any,
    fp8: bool = False,
) -> list[float]:
    """Train, and give the loss of each step."""
    spec = _SPEC.format(
        shape=args.shape,
        method=args.method,
        steps=args.steps,
        speed="fp8" if fp8 else "exact",
    )
    box = TrainBox(folder / name, models, spec, [LENGTH] * (args.steps * EFFECTIVE))
    began = time.monotonic()
    size = EFFECTIVE // 4
    status, result = box.train(
        BatchPlan(per_device_batch_size=size, gradient_accumulation_steps=EFFECTIVE // size),
        trouble=order,
        total_steps=args.steps,
        seconds=600,
        fast=fast,
    )
    if status or result is None or result.metrics["path"] != ("fast" if fast else "plain"):
        sys.exit(f"{name}: status {status}\n{box.log()}")
    found = [float(line["loss"]) for line in box.lines()]
    seconds = time.monotonic() - began
    print(f"{name}: {found[0]:.4f} → {found[-1]:.4f}, {seconds:.0f} s", flush=True)
    return found


def row(name: str, found: list[float], wanted: list[float]) -> str:
    """Give a line of the table: how far two curves are apart."""
    apart = [abs(a - b) for a, b in zip(found, wanted, strict=True)]
    worst = max(range(len(apart)), key=apart.__getitem__)
    late = apart[len(apart) // 2 :]
    return (
        f"| {name} | {apart[worst]:.4f} (step {worst + 1}) | {sum(apart) / len(apart):.5f} | "
        f"{max(late):.4f} | {sum(late) / len(late):.5f} | {apart[-1]:.5f} |"
    )


def main() -> None:
    """Run all three, and print how far they are apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="8B-6")
    parser.add_argument("--method", default="qlora", choices=["qlora", "lora"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--fp8", action="store_true", help="a run with speed: fp8, too")
    parser.add_argument("--only-fast", action="store_true", help="held against the fast path's own")
    parser.add_argument("--models", type=Path, help="where the model is made, or is already")
    args = parser.parse_args()
    import torch  # its device's name; the runs have processes of their own

    card = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    print(f"{card}, torch {torch.__version__}; {args.shape}, {args.method}, {args.steps} steps")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        models = args.models or folder / "models"
        make_model(models, args.shape)
        ours = losses_of("fast path", folder, models, args, fast=True, order=in_order)
        eighth = None
        if args.fp8:
            eighth = losses_of("fp8", folder, models, args, fast=True, order=in_order, fp8=True)
        if args.only_fast:
            print("| loss apart from the fast path's | largest | mean | 2nd half | mean | last |")
            print(row("fp8", eighth or ours, ours))
            return
        peft = losses_of("PEFT", folder, models, args, fast=False, order=in_order)
        again = losses_of("PEFT, turned", folder, models, args, fast=False, order=turned_round)
    print("| loss apart from PEFT's | largest | mean | largest, 2nd half | mean | last |")
    print("|---|---|---|---|---|---|")
    print(row("fast path", ours, peft))
    if eighth is not None:
        print(row("fast path, speed: fp8", eighth, peft))
    print(row("PEFT, rows of each batch turned round", again, peft))


if __name__ == "__main__":
    main()
