"""What the CPU's tests cannot show: a card's own allocator, NF4 kernels, caps and offloading."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gpu_box import TrainBox

from runner.contract.batch import BatchPlan
from runner.contract.layout import Outputs
from runner.contract.record import read_record
from runner.contract.states import State
from runner.exit_codes import ExitCode
from runner.forecast.lessons import read_lessons
from runner.forecast.work import GIB

REPOSITORY = Path(__file__).parents[2]
# The plain path's ladder: the fast path fits where these want memory to run out.
PLAIN = {"fast": False}
SPEC = """\
model: '1B'
data: rows.jsonl
eval_split: 0
training: {max_steps: 6, effective_batch_size: 8, learning_rate: 1e-3, save_steps: 2}
"""
STEPS = 6
CAP = int(14.5 * GIB)


def box(root: Path, models: Path, lengths: list[int], spec: str = SPEC) -> TrainBox:
    """Make a run whose rows have these lengths."""
    return TrainBox(root, models, spec, lengths)


def plan(batch: int, *, effective: int = 8, checkpointing: bool = False) -> BatchPlan:
    """Cut the effective batch."""
    return BatchPlan(
        per_device_batch_size=batch,
        gradient_accumulation_steps=effective // batch,
        activation_checkpointing=checkpointing,
    )


def test_a_dropped_spec_becomes_an_adapter(tmp_path: Path, models: Path) -> None:
    """QLoRA by the daemon, prepare to evaluation, with a forecast beside the measured peak."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    rows = [{"prompt": f"How high is wall {n}?", "completion": f"{3 * n} feet"} for n in range(64)]
    (jobs / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (jobs / "walls.yaml").write_text(
        "model: '1B'\ndata: rows.jsonl\neval_split: 0.1\ntraining: {max_steps: 4, eval_steps: 2}\n"
    )
    command = [sys.executable, "-m", "runner.cli", "watch", "--once", "--jobs-dir", str(jobs)]
    command += ["--outputs-dir", str(tmp_path / "outputs"), "--models-dir", str(models)]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    (run,) = Outputs(tmp_path / "outputs").runs()
    record = read_record(run.record)
    logs = "".join(path.read_text()[-1500:] for path in run.root.rglob("*.log"))
    assert (done.returncode, record.state) == (0, State.SUCCEEDED), (record.error, logs)
    assert (run.adapter / "adapter_model.safetensors").exists()
    assert record.metrics["eval_loss_after"] is not None
    assert record.forecast["gpu"]
    assert record.forecast["measured_gpu_memory_bytes"] > 0
    assert "GPU memory after step 2" in (run.attempt_folders()[0] / "train.log").read_text()
    assert record.metrics["path"] == "fast"
    (lesson,) = read_lessons(Outputs(tmp_path / "outputs").lessons)
    assert lesson.fast
    assert lesson.measured_bytes == record.forecast["measured_gpu_memory_bytes"]
    assert lesson.forecast_bytes == pytest.approx(lesson.measured_bytes, rel=0.1)


def test_the_probe_halves_under_a_cap(tmp_path: Path, models: Path) -> None:
    """Before step 1 the plan shrinks to what the cap holds, and the cap is kept."""
    run = box(tmp_path, models, [4096] * 16)
    status, result = run.train(plan(8), gpu_memory_bytes=CAP, probe=True, **PLAIN)
    assert status == ExitCode.OK, run.log()
    assert result is not None
    assert result.batch_plan.per_device_batch_size < 8 or result.batch_plan.activation_checkpointing
    assert result.batch_plan.effective_batch_size == 8
    assert (result.peak_gpu_memory_bytes or 0) <= CAP


def test_out_of_memory_in_mid_run(tmp_path: Path, models: Path) -> None:
    """Memory that runs out in a later step costs no step: the losses are those of a free run."""
    lengths = [256 - 3 * (n % 8) for n in range(48)]
    free = box(tmp_path / "free", models, lengths)
    status, _ = free.train(plan(8, checkpointing=True), total_steps=STEPS, probe=False, **PLAIN)
    assert status == ExitCode.OK, free.log()
    long_row = free.lines()[3]["rows"][2]
    lengths[long_row] = 16384
    free = box(tmp_path / "reference", models, lengths)
    status, _ = free.train(plan(8, checkpointing=True), total_steps=STEPS, probe=False, **PLAIN)
    assert status == ExitCode.OK, free.log()
    run = box(tmp_path / "capped", models, lengths)
    wishes = {"total_steps": STEPS, "gpu_memory_bytes": CAP}
    status, result = run.train(plan(8, checkpointing=True), probe=False, **wishes, **PLAIN)
    assert status == ExitCode.OUT_OF_GPU_MEMORY, run.log()
    assert result is not None
    assert result.last_step == 3
    assert result.next_batch_plan is not None
    first = [line for line in run.lines() if line["step"] <= result.last_step]
    status, result = run.train(result.next_batch_plan, probe=True, **wishes, **PLAIN)
    assert status == ExitCode.OK, run.log()
    lines, wanted = [*first, *run.lines()], free.lines()
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    for name in ("rows", "learning_rate"):
        assert [line[name] for line in lines] == [line[name] for line in wanted]
    assert [line["loss"] for line in lines] == pytest.approx(
        [line["loss"] for line in wanted], rel=1e-2
    )


def test_the_last_steps_of_the_ladder(tmp_path: Path, models: Path) -> None:
    """At batch 1, checkpointing and then offloading are switched on in the same process."""
    run = box(tmp_path / "one", models, [16384] * 4)
    smallest = plan(1, effective=1)
    status, first = run.train(smallest, gpu_memory_bytes=CAP, probe=True, **PLAIN)
    assert status == ExitCode.OK, run.log()
    assert first is not None
    assert first.batch_plan.activation_checkpointing
    assert not first.batch_plan.activation_offloading
    less = (first.peak_gpu_memory_bytes or 0) - GIB // 2
    run = box(tmp_path / "two", models, [16384] * 4)
    status, second = run.train(smallest, gpu_memory_bytes=less, probe=True, **PLAIN)
    assert status == ExitCode.OK, run.log()
    assert second is not None
    assert second.batch_plan.activation_offloading
    assert (second.peak_gpu_memory_bytes or 0) <= less
    assert all(line["loss"] > 0 for line in run.lines())


def test_a_cap_that_nothing_fits_ends_in_words(tmp_path: Path, models: Path) -> None:
    """When everything is on and it still does not fit, the attempt says so and names a way."""
    run = box(tmp_path, models, [32768] * 2)
    status, result = run.train(plan(1, effective=1), gpu_memory_bytes=3 * GIB, probe=True, **PLAIN)
    assert status == ExitCode.OUT_OF_GPU_MEMORY, run.log()
    assert result is not None
    assert result.next_batch_plan is None
    assert result.error is not None
    assert result.error.advice


def test_weights_for_host_memory_are_made_on_the_card(models: Path) -> None:
    """A base that cards share: the bytes are those of one that is loaded onto the card."""
    import torch

    from runner.training.fit.model import Machine, load_base

    card = Machine(device="cuda", compute="bfloat16")
    wanted, found = (
        load_base(models / "1B", method="qlora", machine=machine).state_dict()
        for machine in (card, card.host)
    )
    assert wanted.keys() == found.keys()
    for name, weight in wanted.items():
        assert found[name].device.type == "cpu"
        assert torch.equal(weight.cpu(), found[name]), name
