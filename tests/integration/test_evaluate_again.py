"""`runner evaluate` with the real daemon and a stand-in stage: the run stands in any case."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from daemon_box import REPOSITORY, Box, wait_until

from runner.contract.layout import RunFolder
from runner.contract.promotions import current_run, promote
from runner.contract.record import read_record
from runner.contract.requests import leave_request
from runner.contract.states import State
from runner.contract.verdict import Outcome
from runner.exit_codes import ExitCode


def has_run(root: Path, **script: Any) -> tuple[Box, RunFolder]:
    """Give a box whose only run has succeeded."""
    box = Box(root)
    box.drop("contracts", **script)
    done = box.once()
    assert done.returncode == 0, done.stderr
    (run,) = box.outputs.runs()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    return box, run


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Let the run succeed that many tests begin with: each takes a copy of its box."""
    box, _ = has_run(tmp_path_factory.mktemp("ran"))
    return box.root


@pytest.fixture
def box(ran: Path, tmp_path: Path) -> Box:
    """A box whose only run has succeeded."""
    return Box(shutil.copytree(ran, tmp_path / "box", symlinks=True))


def ask(box: Box, run: RunFolder) -> subprocess.CompletedProcess[str]:
    """Call the command."""
    where = [run.run_id, "--outputs-dir", str(box.outputs.root)]
    return subprocess.run(
        [sys.executable, "-m", "runner.cli", "evaluate", *where],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def now_measures(run: RunFolder, **script: Any) -> None:
    """Let the stand-in's evaluate stage find something else, or end otherwise, from now on."""
    at = run.root / "script.json"
    at.write_text(json.dumps({**json.loads(at.read_text()), **script}))


def test_a_run_is_evaluated_again(box: Box) -> None:
    """Record, answer and folder show the new figures; the run is over before and after."""
    (run,) = box.outputs.runs()
    before = box.record()
    assert before.verdict is not None
    assert before.verdict.outcome is Outcome.BETTER
    now_measures(run, measured={"eval_loss_after": 6.0, "change_low": 2.0, "change_high": 4.0})
    asked = ask(box, run)
    assert asked.returncode == 0, asked.stderr
    done = box.once()
    assert done.returncode == 0, done.stderr
    record = box.record()
    assert record.state is State.SUCCEEDED
    assert record.ended_at == before.ended_at
    assert record.verdict is not None
    assert record.verdict.outcome is Outcome.WORSE
    assert record.verdict.reason in box.answer("done")
    assert json.loads((run.evaluation / "plan.json").read_text())["alone"] is True
    assert not (run.root / "evaluation-new").exists()
    assert not list(box.outputs.requests.iterdir())


def test_an_evaluation_that_fails_takes_nothing(box: Box) -> None:
    """What was measured before stands, and the record says why there is nothing new."""
    (run,) = box.outputs.runs()
    now_measures(run, evaluate=["ok", "1"])
    before = box.record()
    assert ask(box, run).returncode == 0
    box.once()
    record = box.record()
    assert (record.state, record.verdict) == (State.SUCCEEDED, before.verdict)
    assert "the stand-in ended with 1" in record.shortfalls[-1]
    assert (run.evaluation / "result.json").is_file()
    assert not list(box.outputs.requests.iterdir())


def test_a_first_evaluation_that_fails_takes_no_adapter(tmp_path: Path) -> None:
    """The run is succeeded with a named shortfall, and the verdict says that it cannot tell."""
    box, run = has_run(tmp_path, evaluate=["1", "1", "ok"])
    record = box.record()
    assert record.state is State.SUCCEEDED
    assert record.verdict is not None
    assert record.verdict.outcome is Outcome.CANNOT_TELL
    assert "runner evaluate" in box.answer("done")
    assert any("The evaluation failed" in one for one in record.shortfalls)
    assert ask(box, run).returncode == 0
    box.once()
    again = box.record().verdict
    assert again is not None
    assert again.outcome is Outcome.BETTER


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(-signal.SIGKILL, id="killed"),
        pytest.param(-signal.SIGSEGV, id="crashed"),
        pytest.param(ExitCode.OUT_OF_GPU_MEMORY, id="out of GPU memory"),
        pytest.param(ExitCode.OUT_OF_HOST_MEMORY, id="out of host memory"),
        pytest.param(ExitCode.BAD_INPUT, id="bad input"),
        pytest.param(ExitCode.DIVERGED, id="a code that evaluate does not have"),
    ],
)
def test_an_evaluation_that_never_ends_well_takes_no_adapter(tmp_path: Path, way: int) -> None:
    """However it ends, as often as it ends so: a good run, a shortfall, and the next job's turn."""
    box, run = has_run(tmp_path, evaluate=[str(int(way))])
    record = box.record()
    assert record.state is State.SUCCEEDED
    assert record.verdict is not None
    assert record.verdict.outcome is Outcome.CANNOT_TELL
    assert any("The evaluation failed" in one for one in record.shortfalls), record.shortfalls
    assert (run.adapter / "adapter_model.safetensors").is_file()
    box.drop("next")
    assert box.once().returncode == 0
    assert {one.job: one.state for one in box.records()}["next"] is State.SUCCEEDED


def test_it_waits_for_the_card_and_survives_the_daemon(box: Box) -> None:
    """A daemon that is stopped in the midst of it begins it anew at its next start."""
    (run,) = box.outputs.runs()
    now_measures(run, evaluate=["ok", "hang", "ok"])
    leave_request(box.outputs, "evaluate", run_id=run.run_id)
    with box.watching():
        wait_until((run.root / "evaluation-new" / "hanging").exists)
        assert box.record().state is State.SUCCEEDED
    assert list(box.outputs.requests.iterdir())
    box.once()
    assert not list(box.outputs.requests.iterdir())
    assert not (run.root / "evaluation-new").exists()


@pytest.mark.parametrize("state", [State.FAILED, State.TRAINING])
def test_a_run_without_an_adapter_is_refused(box: Box, state: State) -> None:
    """The command says why, and leaves no request."""
    (run,) = box.outputs.runs()
    fields = json.loads(run.record.read_text())
    run.record.write_text(json.dumps({**fields, "state": state.value}))
    asked = ask(box, run)
    assert asked.returncode == 1
    assert state.value in asked.stderr
    assert not box.outputs.requests.exists() or not list(box.outputs.requests.iterdir())


def against_current(low: float) -> dict[str, Any]:
    """Give an evaluation: better than what is in use by `low` at least."""
    against = {"difference": low + 0.2, "low": low, "high": low + 0.4, "rows": 40}
    score = {"name": "loss", "difference": 1.5, "low": 1.2, "high": 1.8, "rows": 40}
    return {"evaluation": {"scores": [{**score, "against_current": against}]}}


def decided(box: Box, run: RunFolder) -> tuple[str, str]:
    """Evaluate a run again; give what was decided and why."""
    assert ask(box, run).returncode == 0
    box.once()
    promotion = read_record(run.record).promotion
    assert promotion is not None
    return promotion.decision.value, promotion.why


def test_the_gate_is_asked_again(tmp_path: Path) -> None:
    """A run that could not be measured comes into use once it is; one that is newer stays."""
    box, first = has_run(tmp_path, evaluate=["1", "1", "ok"])
    assert current_run(box.outputs, "contracts") is None
    assert decided(box, first) == ("promoted", "better_than_base")
    assert current_run(box.outputs, "contracts") == first.run_id
    assert os.readlink(box.outputs.current("contracts")) == first.run_id
    assert "Put into use: it is better than the base model" in box.answer("done")
    box.drop("contracts", measured=against_current(-0.3))
    box.once()
    second = box.outputs.runs()[-1]
    (second.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    assert current_run(box.outputs, "contracts") == first.run_id
    now_measures(second, measured=against_current(0.1))
    assert decided(box, second) == ("promoted", "better_than_current")
    assert current_run(box.outputs, "contracts") == second.run_id
    now_measures(first, measured=against_current(0.1))
    assert decided(box, first) == ("awaits approval", "again")
    now_measures(second, measured={"eval_loss_after": 6.0, "change_low": 2.0, "change_high": 4.0})
    assert decided(box, second) == ("promoted", "better_than_current")
    assert current_run(box.outputs, "contracts") == second.run_id


def test_what_a_person_chose_is_not_undone_by_measuring(box: Box) -> None:
    """A newer run that is measured to be better waits for a word, and the answer says which."""
    (first,) = box.outputs.runs()
    box.drop("contracts", measured=against_current(-0.3))
    box.once()
    second = box.outputs.runs()[-1]
    (second.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    promote(box.outputs, second, why="alice asked for it", by="alice")
    promote(box.outputs, first, why="alice asked for it", by="alice")
    box.drop("contracts", measured=against_current(-0.3))
    box.once()
    third = box.outputs.runs()[-1]
    (third.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    now_measures(third, measured=against_current(0.1))
    assert decided(box, third) == ("awaits approval", "again")
    assert current_run(box.outputs, "contracts") == first.run_id
    answer = box.jobs / "done" / f"contracts--{third.run_id}.yaml.txt"
    assert "`runner promote` puts it into use" in answer.read_text()


@pytest.mark.parametrize("when", ["never", "approved"])
def test_other_gates_are_not_asked_again(tmp_path: Path, when: str) -> None:
    """What does not follow from a measurement is not changed by one."""
    box = Box(tmp_path)
    (box.jobs / "contracts.jsonl").write_text("{}")
    box.drop_spec("contracts", extra=f"promote: {{when: {when}}}\n")
    box.once()
    (run,) = box.outputs.runs()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    assert decided(box, run)[1] == when
    assert current_run(box.outputs, "contracts") is None
