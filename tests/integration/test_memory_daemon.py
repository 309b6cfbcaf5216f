"""Out of memory under the real daemon: what becomes of a dropped spec, and who is told what."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_box import REPOSITORY, Box, attempt_of
from small_model import keep_bytes

from runner.contract.layout import StageFolder
from runner.contract.states import State

pytestmark = pytest.mark.long

LIMITED = Path(__file__).with_name("limited_stage.py")
CHANGE = "halved for the longest rows: 4 × 2, at most 1,678 tokens at once, same effective batch 8"


def work_off_walls(
    root: Path, model: Path, mebibytes: int
) -> tuple[Box, subprocess.CompletedProcess[str]]:
    """Drop forty rows, two of them long, where training may take so much memory."""
    box = Box(root)
    keep_bytes(model, box.root / "models" / "m")
    rows = [
        {"prompt": f"How high is wall {n}?", "completion": "A foot. " * (90 if n in (7, 31) else 3)}
        for n in range(40)
    ]
    (box.jobs / "walls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    box.drop_spec("walls", "eval_split: 0.1\ntraining: {epochs: 1, effective_batch_size: 8}\n")
    stage = [sys.executable, str(LIMITED), str(mebibytes)]
    return box, box.once(stage_command=stage, device="cpu", timeout=600)


def test_a_dropped_spec_survives_a_machine_with_little_memory(
    tmp_path: Path, tiny_model: Path
) -> None:
    """Real stages, the real allocator fails where it falls: the run succeeds, and all are told."""
    # Two rows with a long one take 550 MiB, four with a long one 1,010; under 740 some runs of four
    # got through on a busy machine, which is not understood.
    box, done = work_off_walls(tmp_path, tiny_model, 640)
    record = box.record()
    assert done.returncode == 0, (done.stderr, record.error)
    first, second = record.attempts
    assert (first.outcome, first.reason) == ("out of memory", CHANGE)
    assert (second.outcome, second.first_step) == ("succeeded", (first.last_step or 0) + 1)
    assert second.last_step == record.total_steps
    assert CHANGE in box.answer("done")
    (run,) = box.outputs.runs()
    assert CHANGE in run.log.read_text()
    command = [sys.executable, "-m", "runner.cli", "status", "--outputs-dir", str(box.outputs.root)]
    environment = {**box.environment, "COLUMNS": "200"}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert CHANGE in told.stdout
    steps = [
        json.loads(line)["step"]
        for attempt in record.attempts
        for line in StageFolder(attempt_of(run, attempt.number)).metrics.read_text().splitlines()
        if '"loss"' in line
        and (attempt.first_step or 0) <= json.loads(line)["step"] <= (attempt.last_step or 0)
    ]
    assert steps == list(range(1, (record.total_steps or 0) + 1))


def test_a_run_that_does_not_fit_ends_with_a_reason(tmp_path: Path, tiny_model: Path) -> None:
    """Down the whole ladder in 16 bits and then in 4; the person learns why, and what to change."""
    box, done = work_off_walls(tmp_path, tiny_model, 100)  # one long row takes 275
    record = box.record()
    assert (done.returncode, record.state) == (1, State.FAILED)
    ladder = [
        "4 × 2",
        "4 × 2, at most 1,678 tokens at once",
        "4 × 2, at most 839 tokens at once",
        "4 × 2, at most 839 tokens at once, activation checkpointing",
    ]
    assert [str(attempt.batch_plan) for attempt in record.attempts] == ladder * 2
    plans = sorted(box.outputs.root.rglob("attempts/*/plan.json"))
    methods = [json.loads(plan.read_text())["method"] for plan in plans]
    assert methods == ["lora"] * 4 + ["qlora"] * 4
    assert {attempt.outcome for attempt in record.attempts} == {"out of memory"}
    assert record.error is not None
    assert record.error.kind == "out_of_gpu_memory"
    assert "the longest row, 839 tokens" in record.error.message
    assert "more memory for the machine" in str(record.error.advice)
    answer = box.answer("failed")
    assert record.error.message in answer
    assert "activation checkpointing switched on at 4 × 2, same effective batch 8" in answer


@pytest.fixture
def group() -> Iterator[Path]:
    """A cgroup of 384 MiB, in which the kernel kills whoever takes most."""
    name, limit = f"runner-test-{secrets.token_hex(4)}", str(384 << 20)
    v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    where = (v1 if v1.is_dir() else v2) / name
    try:
        where.mkdir()
        if v1.is_dir():
            (where / "memory.limit_in_bytes").write_text(limit)
        else:
            (where / "memory.max").write_text(limit)
            (where / "memory.swap.max").write_text("0")
    except OSError as error:
        pytest.skip(f"no cgroup can be made here ({error.strerror})")
    yield where
    where.rmdir()


@pytest.mark.parametrize(
    ("ways", "state"),
    [(["eat", "ok"], State.SUCCEEDED), (["eat", "eat"], State.FAILED)],
    ids=["once", "twice"],
)
def test_a_kernel_kill_is_told_apart(
    tmp_path: Path, group: Path, ways: list[str], state: State
) -> None:
    """The kernel's own kill is named, tried once more with less, and advised on if it repeats."""
    box = Box(tmp_path)
    box.drop("contracts", train=ways)
    enter = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    done = subprocess.run(
        [*enter, *box.command(once=True)],
        cwd=REPOSITORY,
        env=box.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    record = box.record()
    assert record.state is state, (done.stderr, record.error)
    first, second = record.attempts
    assert (first.outcome, first.exit_code) == ("out of host memory", -9)
    (run,) = box.outputs.runs()
    spared = []
    for attempt in (first, second):
        folder = StageFolder(attempt_of(run, attempt.number))
        environment = json.loads((folder.root / "environment.json").read_text())
        plan = json.loads(folder.plan.read_text())
        spared.append((plan["spare_host_memory"], "MALLOC_MMAP_THRESHOLD_" in environment))
    assert spared == [(False, False), (True, True)]
    answer = box.answer("done" if state is State.SUCCEEDED else "failed")
    assert "the machine's own memory ran out in attempt 1" in answer
    if state is State.FAILED:
        assert "Close other programs" in answer
