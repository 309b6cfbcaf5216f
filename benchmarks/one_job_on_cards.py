"""One job on several cards against one: tokens a second, losses, and what a lost rank costs.

    python benchmarks/one_job_on_cards.py [--shape 8B] [--ranks 1 2] [--share] [--kill] [--oom]

The product's train stage on random weights of a shape (gpu_box.py), NF4, rank 16 on all linear
layers, rows of lognormal lengths (64 to 2,048 tokens), the same in every arm. 1.8 times is wanted
of two cards. Where speed is measured nothing is written meanwhile, neither checkpoints nor the
cache of 4-bit weights. ``--share`` lets the cards share the base, as one does that no card has room
for: memory, speed and losses beside the others' (``--ranks`` without numbers: that arm alone).
``--kill`` ends rank 1 by SIGKILL in mid-run, ``--oom`` lets it run out of memory, ``--hang`` stops
it; each prints how the stage ended, how soon, and how the run went on.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from gpu_box import TrainBox, make_model

from runner.contract.batch import BatchPlan
from runner.contract.stage_io import PARENT
from runner.forecast.work import GIB

SKIPPED = 4  # steps
FAILS_AT = 6
_SPEC = """\
model: '{shape}'
data: rows.jsonl
method: qlora
eval_split: 0
lora: {{r: 16, alpha: 16}}
training: {{max_steps: {steps}, effective_batch_size: {effective}, learning_rate: 2e-4{more}}}
"""


def lengths(count: int) -> list[int]:
    """Draw rows' lengths: lognormal, median 490."""
    dice = random.Random(0)
    return [min(2048, max(64, int(dice.lognormvariate(6.2, 0.7)))) for _ in range(count)]


@dataclass(frozen=True)
class Arranged:
    """The cards that the stage sees; and a fault in rank 1."""

    cards: int
    fault: str = ""

    def __call__(self) -> None:
        """Arrange it, in the stage's process."""
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(self.cards)))
        from runner.training.ranks import launch, silence

        silence.SILENT_SECONDS = 20.0  # steps of a second: the office's 600 would be waited for
        if self.fault == "oom":
            launch.start_rank = _with_fault


def _with_fault(place: Any, stage: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start a rank as the launcher does, by way of this file."""
    from runner.training.ranks import launch
    from runner.training.ranks.place import folder_of

    environment = {**os.environ, PARENT: str(os.getpid()), **launch._cards(place.rank)}  # noqa: SLF001
    own = folder_of(folder, place.rank)
    own.root.mkdir(parents=True, exist_ok=True)
    log = own.log(stage).open("ab")
    command = [sys.executable, __file__, place.flag, stage, str(folder)]
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def be_a_rank(arguments: list[str]) -> int:
    """Be a rank whose second one runs out of memory in a step."""
    if arguments[0].startswith("--rank=1/"):
        import torch

        from runner.training.fit.cut import CuttingTrainer

        inner = CuttingTrainer._trained_on  # noqa: SLF001

        def trained_on(trainer: Any, *given: Any) -> Any:
            found = inner(trainer, *given)
            if trainer.state.global_step + 1 == FAILS_AT and trainer.is_in_train:
                device = "cuda" if torch.cuda.is_available() else "cpu"
                torch.empty(2**46, dtype=torch.uint8, device=device)  # the allocator's own refusal
            return found

        CuttingTrainer._trained_on = trained_on  # type: ignore[method-assign]  # noqa: SLF001
    from runner.training.__main__ import main as stage

    return stage(arguments)


class Arms:
    """What is run on the models of one shape."""

    def __init__(self, root: Path, asked: argparse.Namespace) -> None:
        self.root, self.asked = root, asked
        self.models = asked.models or root / "models"
        began = time.monotonic()
        make_model(self.models, asked.shape)
        print(f"the model was made in {time.monotonic() - began:.0f} s", flush=True)

    def box(self, name: str, more: str = "") -> TrainBox:
        """Make a run with the rows that every arm has."""
        asked = self.asked
        spec = _SPEC.format(
            shape=asked.shape, steps=asked.steps, effective=asked.effective, more=more
        )
        rows = lengths(asked.steps * asked.effective)
        return TrainBox(self.root / name, self.models, spec, rows)

    def train(
        self,
        box: TrainBox,
        ranks: int,
        fault: str = "",
        plan: BatchPlan | None = None,
        **wishes: Any,
    ) -> tuple[int, Any, float]:
        """Run an attempt: exit status, result and seconds."""
        import torch

        began = time.monotonic()
        whole = BatchPlan(per_device_batch_size=self.asked.effective, gradient_accumulation_steps=1)
        status, result = box.train(
            plan or whole,
            trouble=Arranged(max(1, ranks), fault),
            total_steps=self.asked.steps,
            ranks=ranks,
            seconds=600,  # 34B's 69 GB are read first
            gpu_memory_bytes=int(self.asked.cap * GIB) if self.asked.cap else None,
            compute="auto" if torch.cuda.is_available() else "float32",
            **wishes,
        )
        return status, result, time.monotonic() - began

    def measure(self, ranks: int, *, share: bool = False) -> tuple[float, list[dict[str, Any]]]:
        """Measure tokens a second of so many ranks; print them with memory and exit status."""
        box = self.box(f"ranks{ranks}{share}")
        wishes = {"shard_base": True, "fast": True} if share else {}
        began = time.time()
        status, result, seconds = self.train(box, ranks, **wishes)
        while status and result is not None and (plan := result.next_batch_plan) is not None:
            print(f"out of memory after {time.time() - began:.0f} s; goes on by {plan}", flush=True)
            status, result, seconds = self.train(box, ranks, plan=plan, **wishes)
        if status or result is None:
            print(f"FAILED ranks {ranks}: status {status}\n{box.log()}", flush=True)
            return 0.0, []
        lines = box.lines()
        at = [datetime.fromisoformat(line["time"]).timestamp() for line in lines]
        tokens = lines[-1]["tokens_seen"] - lines[SKIPPED - 1]["tokens_seen"]
        speed = tokens / (at[-1] - at[SKIPPED - 1])
        context = result.environment.get("gpu_context_bytes", 0) / GIB
        loaded = result.metrics["gpu_memory"].get("after loading", {})
        after = loaded.get("allocated_bytes", 0) / GIB
        peak = (result.peak_gpu_memory_bytes or 0) / GIB
        print(
            f"ranks {ranks}{', base shared' if share else ''}: {speed:,.0f} tokens/s, "
            f"{result.metrics['path']} path, {result.batch_plan}; peak {peak:.2f} GiB a card, "
            f"{context:.2f} of it outside the allocator, {after:.2f} after loading; "
            f"first step {at[0] - began:.0f} s after the start, {seconds:.0f} s in all; "
            f"last loss {lines[-1]['loss']:.4f}",
            flush=True,
        )
        return speed, lines

    def fail(self, fault: str, ranks: int) -> None:
        """Let rank 1 fail, and go on; print what was seen."""
        box, failed = self.box(fault, ", save_steps: 5"), []
        if fault != "oom":
            number = signal.SIGKILL if fault == "kill" else signal.SIGSTOP
            threading.Thread(target=_signal_one, args=(box, number, failed), daemon=True).start()
        status, result, _ = self.train(box, ranks, fault)
        steps = box.lines()
        since = f", {time.monotonic() - failed[0]:.1f} s after it" if failed else ""
        print(
            f"{fault}: the stage ended with {status}{since}; steps seen to {steps[-1]['step']}, "
            f"result {result and (result.outcome, result.last_step, str(result.batch_plan))}, "
            f"next plan {result and result.next_batch_plan}, error {result and result.error}; "
            f"left running: {_ranks_running() or 'nothing'}",
            flush=True,
        )
        status, result, seconds = self.train(box, ranks)
        print(
            f"{fault}: then ended with {status}, steps {result and result.first_step} to "
            f"{result and result.last_step}, {seconds:.0f} s",
            flush=True,
        )
        if status:
            print(box.log(), flush=True)


def _ranks_running(word: str = "--rank=") -> list[int]:
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(part.startswith(word.encode()) for part in words):
                found.append(int(entry.name))
    return found


def _signal_one(box: TrainBox, number: int, done: list[float]) -> None:
    """Send rank 1 a signal once the run has some steps behind it."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        time.sleep(0.1)
        try:
            if len(box.lines()) < FAILS_AT:
                continue
        except (OSError, ValueError):
            continue
        for pid in _ranks_running("--rank=1/"):
            os.kill(pid, number)
        done.append(time.monotonic())
        return


def compare(one: list[dict[str, Any]], more: list[dict[str, Any]]) -> None:
    """Print how two curves differ: rows and rates exactly, losses and norms by the worst."""
    same = all(
        a[name] == b[name]
        for a, b in zip(one, more, strict=True)
        for name in ("rows", "learning_rate", "tokens_seen")
    )
    worst = {
        name: max(abs(a[name] / b[name] - 1) for a, b in zip(one, more, strict=True))
        for name in ("loss", "grad_norm")
    }
    print(
        f"rows, rates and tokens {'the same' if same else 'DIFFER'}; off by at most "
        f"{worst['loss']:.1e} (losses), {worst['grad_norm']:.1e} (gradient norms)",
        flush=True,
    )


def main() -> None:
    """Run the arms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="8B")
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--effective", type=int, default=16)
    parser.add_argument("--models", type=Path, help="where the model is made, or is already")
    parser.add_argument("--cap", type=float, default=0.0, help="GiB of each card; 0: all")
    parser.add_argument("--share", action="store_true")
    for fault in ("kill", "oom", "hang"):
        parser.add_argument(f"--{fault}", action="store_true")
    asked = parser.parse_args()
    import torch  # its version; the stages run in processes of their own

    print(
        f"{asked.shape}, torch {torch.__version__}, {asked.steps} steps of {asked.effective} rows"
    )
    subprocess.run("nvidia-smi -L; nvidia-smi topo -m", shell=True, check=False)
    with tempfile.TemporaryDirectory() as folder:
        arms = Arms(Path(folder), asked)
        found = [(str(ranks), *arms.measure(ranks)) for ranks in asked.ranks]
        if asked.share:
            most = max(asked.ranks, default=2)
            found.append((f"{most} base-sharing", *arms.measure(most, share=True)))
        (first, speed, curve), *others = found or [("none", 0.0, [])]
        for ranks, other, lines in others:
            if speed and other:
                print(f"{ranks} ranks give {other / speed:.2f} times the tokens of {first}")
                compare(curve, lines)
        for fault in ("kill", "oom", "hang"):
            if getattr(asked, fault):
                arms.fail(fault, max(asked.ranks, default=2))


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].startswith("--rank="):
        sys.exit(be_a_rank(sys.argv[1:]))
    main()
