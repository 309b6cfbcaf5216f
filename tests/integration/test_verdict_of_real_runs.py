"""The verdict of real runs: daemon, stages and model are real, the rows are of the field's kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_box import attempt_of

from runner.contract.layout import Outputs, RunFolder
from runner.contract.record import RunRecord, read_record
from runner.contract.row_losses import read_row_losses
from runner.contract.states import State
from runner.contract.verdict import Outcome

MODEL = "small-model"
SPECS = {
    "too-fast": "training: {max_steps: 2, batch_size: 2, gradient_accumulation: 1, "
    "learning_rate: 1, lr_scheduler: constant, warmup_ratio: 0, eval_steps: 2}",
    "one-step": "eval_split: 0\ntraining: {epochs: 1, effective_batch_size: 16}",
}
ROWS = [
    {"instruction": f"How long is notice period {n}?", "output": f"It is {n} months."}
    for n in range(10)
]
SECONDS = 900  # eight stages, each with its imports, on a machine that does other work as well
pytestmark = [pytest.mark.long, pytest.mark.timeout(SECONDS)]


@pytest.fixture(scope="module")
def box(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A box on which each spec has run."""
    folder = tmp_path_factory.mktemp("box")
    (folder / "models" / MODEL).mkdir(parents=True)
    for file in tiny_model.iterdir():
        os.link(file, folder / "models" / MODEL / file.name)
    (folder / "jobs").mkdir()
    (folder / "jobs" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, lines in SPECS.items():
        spec = f"model: {MODEL}\ndata: rows.jsonl\n{lines}\n"
        (folder / "jobs" / f"{name}.yaml").write_text(spec)
    done = subprocess.run(
        [sys.executable, "-m", "runner.cli", "watch", "--once"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def of(box: Path, job: str) -> tuple[RunFolder, RunRecord, str]:
    """Give a job's only run, its record and its answer."""
    (run,) = [run for run in Outputs(box / "outputs").runs() if run.job == job]
    (answer,) = (box / "jobs" / "done").glob(f"{job}--*.txt")
    return run, read_record(run.record), answer.read_text()


def needs_a_person(box: Path) -> str:
    """Give STATUS.txt down to the jobs that wait, run and have ended."""
    return (box / "jobs" / "STATUS.txt").read_text().partition("\n\n")[0]


def test_a_run_that_made_it_worse_says_so(box: Path) -> None:
    """A learning rate far too high ends well for the machine, and not for the lawyer."""
    run, record, answer = of(box, "too-fast")
    assert record.state is State.SUCCEEDED
    assert record.verdict is not None
    assert (record.verdict.outcome, record.verdict.changed) == (Outcome.WORSE, True)
    before, after = (record.metrics[f"eval_loss_{when}"] for when in ("before", "after"))
    assert after > 1.1 * before
    reason = record.verdict.reason
    assert f"far worse than its base ({before:.3f} before, {after:.3f} after)" in reason
    assert "Do not use it." in reason
    assert reason in answer
    assert reason in needs_a_person(box)
    rows = json.loads((run.evaluation / "losses.json").read_text())
    assert len(rows) == record.verdict.figures.held_out_rows == 2


def test_a_run_of_one_step_learns(box: Path) -> None:
    """Ten rows once are one optimizer step: it has its whole learning rate, and moves every B."""
    from safetensors import safe_open

    run, record, answer = of(box, "one-step")
    assert (record.state, record.total_steps) == (State.SUCCEEDED, 1)
    line = json.loads((attempt_of(run, 1) / "metrics.jsonl").read_text().splitlines()[0])
    assert (line["step"], line["learning_rate"]) == (1, 2e-4)
    with safe_open(run.adapter / "adapter_model.safetensors", framework="pt") as tensors:
        names = [name for name in tensors.keys() if "lora_B" in name]  # noqa: SIM118
        assert names
        assert all(bool(tensors.get_tensor(name).any()) for name in names)
    assert record.verdict is not None
    assert (record.verdict.outcome, record.verdict.changed) == (Outcome.CANNOT_TELL, True)
    assert "no rows were held out" in record.verdict.reason
    assert record.verdict.reason in answer
    assert "one-step" not in needs_a_person(box)


@pytest.mark.parametrize("job", SPECS)
def test_what_the_checks_found_is_in_record_and_answer(box: Path, job: str) -> None:
    """Few rows are advice beside the spec; the base's hardest rows join them, with the report."""
    run, record, answer = of(box, job)
    found = {one.check: one for one in record.findings}
    assert found["few_rows"].message in answer
    assert f"About your data: {found['few_rows'].message}" in answer
    lines = [place.line for place in found["hardest_answers"].places]
    measured = read_row_losses(run)
    assert lines == [one.line for one in measured.rows[:3]]
    told = f"{len(measured.rows)} of {measured.learned_rows} rows that are learned"
    page = run.report.read_text()
    assert told in page
    assert page.count(f"rows.jsonl, line {lines[0]}") > 1  # among the findings, and in the table
    assert found["hardest_answers"].message not in answer
    assert "notice period" not in run.record.read_text()
