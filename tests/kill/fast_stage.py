"""Stands in for `python -m runner.training` in the kill tests: the same files in milliseconds.

Command: `python fast_stage.py BOX STAGE FOLDER`. Real: the process's top, the snapshot, export, and
checkpoints (sealed, pruned, verified). Stood in for: the model. Its "weights" are a hash chain,
a link for each step, so that a step left out, done twice or done from the wrong place shows in the
loss of every later step and in the adapter. Of several ranks, which the product's own launcher
starts, the first alone trains. The real trainer is killed in test_kill_trainer.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from killing import listen

from runner.contract.checkpoints import Manifest
from runner.contract.handed_over import HandedOver, ServedForm
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.prune import prune
from runner.contract.rates import HeldOutLosses
from runner.contract.record import DataFile
from runner.contract.stage_io import (
    PARENT,
    EvaluateResult,
    HandOverPlan,
    HandOverResult,
    PreparePlan,
    PrepareResult,
    TrainPlan,
    TrainResult,
    read_message,
    write_message,
)
from runner.contract.states import TRAINS, Stage
from runner.errors import DataError, StageError
from runner.exit_codes import ExitCode
from runner.forecast.lengths import Lengths, write_lengths
from runner.spec.read_spec import read_spec
from runner.training import __main__ as top
from runner.training.data.findings import Findings
from runner.training.data.snapshot import take_snapshot
from runner.training.export.export import CONFIG, WEIGHTS, export
from runner.training.export.put_in_place import beside, put_in_place
from runner.training.fit.checkpoint import seal
from runner.training.ranks import launch
from runner.training.ranks.place import Place, folder_of

TOTAL_STEPS = 12
HELD_OUT = 20
SAVE_STEPS = 3
STEP_SECONDS, SLOW_STEP_SECONDS = 0.01, 0.5
SLOW = "slow"
"""A file of this name in the box makes steps slow enough to be interrupted."""
HOLD_COPY, HOLD_PREPARED = "hold-copy", "hold-prepared"
"""Files of these names in the box make prepare stand still before or after it copies the data."""
TOO_WIDE = "too-wide"
"""With a file of this name, what trains in 16 bits runs out of memory, each time at the same step,
and no smaller plan is left; `lengths.json` lets the daemon choose them."""
WIDE_STEPS = 4
BOX = Path()


def next_weights(weights: bytes, step: int) -> bytes:
    """Train one step."""
    return hashlib.sha256(weights + str(step).encode()).digest()


def loss_of(weights: bytes) -> float:
    """Measure."""
    return int.from_bytes(weights[:4], "big") / 2**32


def first_weights(data: bytes) -> bytes:
    """Draw the weights before the first step."""
    return hashlib.sha256(data).digest()


def as_safetensors(weights: bytes) -> bytes:
    """Write the weights as a real adapter's file: the length of a header, the header, the data."""
    tensor = {"dtype": "U8", "shape": [len(weights)], "data_offsets": [0, len(weights)]}
    header = json.dumps({"chain": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + weights


def _prepare(folder: Path, run: RunFolder) -> None:
    plan = read_message(StageFolder(folder).plan, PreparePlan)
    spec = read_spec(run.spec.read_bytes(), file_name="x.yaml")
    _held(HOLD_COPY)
    findings = Findings()
    copies = take_snapshot(
        list(spec.data),
        inbox=Path(plan.jobs_dir),
        spec_folder=plan.spec_folder,
        target=run.data,
        findings=findings,
        known=[Path(known) for known in plan.known_data],
    )
    if findings.problems:
        raise DataError(findings.problems)
    _held(HOLD_PREPARED)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    data = tuple(DataFile(path=c.named, sha256=c.sha256, bytes=c.size, rows=1) for c in copies)
    if (BOX / TOO_WIDE).exists():
        write_lengths(run.lengths, Lengths.of([10] * 10))
    rows = {"train_rows": 10, "eval_rows": HELD_OUT if spec.rates_tried else 0}
    result = PrepareResult(data=data, total_steps=TOTAL_STEPS, **rows)
    write_message(StageFolder(folder).result, result)


def _held(name: str) -> None:
    """Stand still while the box has a file of this name."""
    while (BOX / name).exists():
        time.sleep(0.02)


def _journal(work: str, what: str, step: int) -> None:
    with (BOX / "journal").open("ab", buffering=0) as file:
        file.write(f"{work} {os.getpid()} {what} {step}\n".encode())


def _train(folder: Path, run: RunFolder) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    stage = StageFolder(folder)
    plan = read_message(stage.plan, TrainPlan)
    home = RunFolder(folder.parents[1])
    work = f"{run.job}-rate{plan.number}" if plan.is_trial else run.job
    too_wide = plan.method == "lora" and (BOX / TOO_WIDE).exists()
    work += "-in-16-bits" if too_wide else ""
    first, name = 1, plan.resume_from
    if name is not None:
        checkpoint = home.checkpoints / name
        first = int(name.rpartition("-")[2]) + 1
        weights = bytes.fromhex((checkpoint / "state").read_text())
    else:
        (data,) = run.data.iterdir()
        weights = first_weights(data.read_bytes())
    step, asked = first - 1, False
    step_seconds = SLOW_STEP_SECONDS if (BOX / SLOW).exists() else STEP_SECONDS
    for step in range(first, plan.total_steps + 1):
        # Thawed after a SIGSTOP, Python gives a struct of anything where no signal came in time.
        came = signal.sigtimedwait([signal.SIGTERM], step_seconds)
        asked = came is not None and came.si_signo == signal.SIGTERM
        weights = next_weights(weights, step)
        _journal(work, "step", step)
        with stage.metrics.open("a") as metrics:
            line = {"step": step, "loss": loss_of(weights), "time": time.time()}
            metrics.write(json.dumps(line) + "\n")
        if asked or step % SAVE_STEPS == 0 or step == plan.total_steps:
            name = _checkpoint(folder, work, weights, step)
        if asked and step < plan.total_steps:
            break
        if too_wide and step >= WIDE_STEPS:
            _run_out(stage, plan, first, step, name)
        asked = False
    interrupted = asked and step < plan.total_steps
    write_message(
        stage.result,
        TrainResult(
            outcome="interrupted" if interrupted else "succeeded",
            batch_plan=plan.batch_plan,
            first_step=first,
            last_step=step,
            checkpoint=name,
            best_checkpoint=name,
            held_out=_held_out(plan) if plan.is_trial else None,
        ),
    )
    if interrupted:
        raise StageError("Stopped.", exit_code=ExitCode.INTERRUPTED, kind="interrupted")


def _run_out(stage: StageFolder, plan: TrainPlan, first: int, step: int, name: str | None) -> None:
    """End as the real stage does where memory ran out and no smaller plan is left."""
    result = TrainResult(
        outcome="out of memory",
        batch_plan=plan.batch_plan,
        first_step=first,
        last_step=step,
        checkpoint=name,
    )
    write_message(stage.result, result)
    code = ExitCode.OUT_OF_GPU_MEMORY
    raise StageError("Memory ran out.", exit_code=code, kind="out_of_gpu_memory")


def _held_out(plan: TrainPlan) -> HeldOutLosses:
    """Measure: the higher the rate, the lower the loss, on every row and for sure."""
    loss = 2.0 - 100 * (plan.learning_rate or 0.0)
    return HeldOutLosses(
        sums=tuple(loss + row / 1000 for row in range(HELD_OUT)), tokens=(1,) * HELD_OUT
    )


def _checkpoint(folder: Path, work: str, weights: bytes, step: int) -> str:
    written = folder / "work" / f"checkpoint-{step}"
    shutil.rmtree(written, ignore_errors=True)
    written.mkdir(parents=True)
    (written / "state").write_text(weights.hex())
    (written / WEIGHTS).write_bytes(as_safetensors(weights))
    (written / CONFIG).write_text(json.dumps({"r": 16, "lora_alpha": 32}))
    checkpoints = StageFolder(folder).checkpoints
    name = seal(written, checkpoints, Manifest(step=step))
    _journal(work, "sealed", step)
    prune(checkpoints, best_step=None)
    return name


def _hand_over(folder: Path, run: RunFolder) -> None:
    """Make each form that is asked for, of the adapter's bytes, and name it as the real stage."""
    plan = read_message(StageFolder(folder).plan, HandOverPlan)
    content = (run.adapter / WEIGHTS).read_bytes()
    forms = []
    with beside(run.root) as temporary:
        made = temporary / "merged"
        made.mkdir()
        for name in ("model-1.safetensors", "model-2.safetensors"):
            (made / name).write_bytes(content)
        put_in_place(made, run.merged)
        forms.append(_form("merged", run.merged, run))
    for name in plan.gguf:
        target = run.gguf / f"{run.job}-{name}.gguf"
        with beside(run.root) as temporary:
            (temporary / target.name).write_bytes(content)
            put_in_place(temporary / target.name, target)
        forms.append(_form(name, target, run))
    made_of = HandedOver(forms=tuple(forms))
    write_message(StageFolder(folder).result, HandOverResult(handed_over=made_of))


def _form(name: str, path: Path, run: RunFolder) -> ServedForm:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return ServedForm(
        name=name,
        path=path.relative_to(run.root).as_posix(),
        bytes=sum(file.stat().st_size for file in files),
        files={file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
    )


def _start_rank(place: Place, stage: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start a rank as the launcher does, but this stage's."""
    folder_of(folder, place.rank).root.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, __file__, str(BOX), place.flag, stage, str(folder)],
        env={**os.environ, PARENT: str(os.getpid())},
    )


def _go_along(folder: Path) -> None:
    """Be a rank that writes nothing: it ends when the first one has."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    while not StageFolder(folder).result.exists():
        if signal.sigtimedwait([signal.SIGTERM], 0.02) is not None:
            raise StageError("Stopped.", exit_code=ExitCode.INTERRUPTED, kind="interrupted")


def _run(stage: Stage, folder: Path, place: Place | None) -> None:
    run = RunFolder.containing(folder)
    if place is not None and place.rank:
        _go_along(folder)
        return
    if stage is Stage.PREPARE:
        _prepare(folder, run)
    elif stage in TRAINS:
        _train(folder, run)
    elif stage is Stage.EXPORT:
        export(folder)
    elif stage is Stage.HAND_OVER:
        _hand_over(folder, run)
    else:
        result = EvaluateResult(
            eval_loss_before=3.0,
            eval_loss_after=1.5,
            eval_tokens=10,
            eval_rows=40,
            change_low=-1.7,
            change_high=-1.3,
        )
        write_message(StageFolder(folder).result, result)


if __name__ == "__main__":
    BOX = Path(sys.argv[1])
    listen(BOX, "child")
    top._run = _run
    launch.start_rank = _start_rank
    sys.exit(top.main(sys.argv[2:]))
