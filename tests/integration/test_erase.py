"""`runner erase` with the real daemon and a stand-in stage: rows go, and nothing else does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from daemon_box import REPOSITORY, Box, attempt_of, wait_until

from runner.contract.layout import Outputs, RunFolder, rate_name, report_name
from runner.contract.promotions import current_run, promote
from runner.contract.record import read_record
from runner.contract.requests import leave_request, read_requests
from runner.contract.states import State

ROW = b"zqxrowzqx"


def command(outputs: Outputs, *words: str, verb: str = "erase") -> subprocess.CompletedProcess[str]:
    """Call the command."""
    return subprocess.run(
        [sys.executable, "-m", "runner.cli", verb, *words, "--outputs-dir", str(outputs.root)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def ran(box: Box, **script: Any) -> RunFolder:
    """Let a run of `contracts` succeed, and put its rows wherever a run may have them."""
    box.drop("contracts", **script)
    done = box.once()
    assert done.returncode == 0, done.stderr
    run = box.outputs.runs_of("contracts")[-1]
    for name in (
        "data/c.jsonl",
        "prepared/rows.arrow",
        "prepared/preview.json",
        "evaluation/answers.jsonl",
        "evaluation-new/x",
        "rating/key.json",
        "checkpoints/step-00000002/state",
        "attempts/01/work/deep/file",
        "attempts/stray",
        "report.html",
        "something-of-a-later-version",
        "adapter/adapter_model.safetensors",
    ):
        path = run.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ROW)
    return run


def holding(folder: Path) -> set[str]:
    """List the files that hold a row."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and ROW in path.read_bytes()
    }


def test_rows_of_a_run_go_and_its_record_says_so(tmp_path: Path) -> None:
    """Only the adapter, the record, the log and the curve stay; the answer tells it."""
    box = Box(tmp_path)
    run = ran(box)
    other = ran(box)
    curve = (attempt_of(run, 1) / "metrics.jsonl").read_bytes()
    state = read_record(run.record)
    page = box.jobs / "done" / report_name(state.file_name, run.run_id)
    table = box.jobs / "rate" / rate_name(run.job, run.run_id)
    for path in (page, table, table.with_name(f"{table.name}.txt")):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(ROW)
    box.outputs.heartbeat.unlink()
    with box.watching():
        wait_until((box.outputs.heartbeat).exists)
        asked = command(box.outputs, run.run_id, "--yes")
        assert (asked.returncode, "the box does it at once" in asked.stdout) == (0, True)
        wait_until(lambda: read_record(run.record).erased and not read_requests(box.outputs))
        wait_until(lambda: not page.exists() and not table.exists())
    assert holding(run.root) == {"adapter/adapter_model.safetensors"}
    assert not table.with_name(f"{table.name}.txt").exists()
    assert (attempt_of(run, 1) / "metrics.jsonl").read_bytes() == curve
    left = {path.relative_to(run.root).parts[0] for path in run.root.rglob("*")}
    assert left == {"adapter", "attempts", "run.json", "spec.yaml", "log.jsonl"}
    record = read_record(run.record)
    assert record.state is State.SUCCEEDED
    assert record.erased is not None
    assert record.erased.adapter is False
    answer = next((box.jobs / "done").glob(f"*{run.run_id}.yaml.txt")).read_text()
    assert "all that was made from them, but for its adapter, were erased on" in answer
    assert len(holding(other.root)) == 12  # the neighbour has all that it had
    assert read_record(other.record).erased is None


def test_where_no_daemon_runs_it_is_done_at_once(tmp_path: Path) -> None:
    """All runs of a job, adapters too; twice does no harm; pages on the share go at its start."""
    box = Box(tmp_path)
    runs = [ran(box), ran(box)]
    page = box.jobs / "done" / report_name("contracts.yaml", runs[0].run_id)
    page.write_bytes(ROW)
    for _ in range(2):
        done = command(box.outputs, "contracts", "--with-adapter", "--yes")
        assert done.returncode == 0, done.stderr
        assert "Erased 2 of contracts's runs" in done.stdout
    assert holding(box.outputs.root) == set()
    erased = [read_record(run.record).erased for run in runs]
    assert [one.adapter for one in erased if one] == [True, True]
    assert not box.outputs.current("contracts").is_symlink()
    assert current_run(box.outputs, "contracts") is None
    said = [one for one in read_record(runs[0].record).shortfalls if "were erased" in one]
    assert len(said) == 1
    again = box.once()
    assert again.returncode == 0, again.stderr
    assert not page.exists()
    assert read_requests(box.outputs) == []


def test_nothing_goes_without_a_yes(tmp_path: Path) -> None:
    """Where nobody can be asked, the command says what it would do and how to say yes."""
    box = Box(tmp_path)
    run = ran(box)
    asked = command(box.outputs, "contracts")
    assert asked.returncode == 1
    assert "nothing brings them back" in asked.stderr
    assert "--yes" in asked.stderr
    assert len(holding(run.root)) == 12
    assert read_requests(box.outputs) == []


@pytest.mark.parametrize("by_request", [False, True])
def test_the_adapter_in_use_stays(tmp_path: Path, by_request: bool) -> None:  # noqa: FBT001
    """It is refused before anything goes, by the command and by the daemon; its rows may go."""
    box = Box(tmp_path)
    run = ran(box)
    promote(box.outputs, run, why="a test", by="a test")
    if by_request:
        leave_request(
            box.outputs, "erase", job=run.job, run_id=run.run_id, by="x", with_adapter=True
        )
        assert "is in use" in box.once().stderr
    else:
        refused = command(box.outputs, run.run_id, "--with-adapter", "--yes")
        assert (refused.returncode, "is in use" in refused.stderr) == (1, True)
        assert "runner promote RUN" in refused.stderr
    assert len(holding(run.root)) == 12
    assert read_requests(box.outputs) == []
    assert command(box.outputs, run.run_id, "--yes").returncode == 0
    again = command(box.outputs, run.run_id, verb="evaluate")
    assert (again.returncode, "were erased on" in again.stderr) == (1, True)
    assert holding(box.outputs.current(run.job)) == {"adapter/adapter_model.safetensors"}


def test_a_link_in_the_run_is_not_followed(tmp_path: Path) -> None:
    """What somebody linked into a run's folder is not the run's: the link goes alone."""
    box = Box(tmp_path)
    run = ran(box)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(ROW)
    (run.root / "linked").symlink_to(outside)
    (run.data / "linked").symlink_to(outside / "kept")
    assert command(box.outputs, run.run_id, "--yes").returncode == 0
    assert holding(outside) == {"kept"}
    assert not (run.root / "linked").is_symlink()


def test_a_run_under_way_is_cancelled_first(tmp_path: Path) -> None:
    """Its rows are needed: the command names the one that ends it, and the daemon refuses, too."""
    box = Box(tmp_path)
    run = ran(box)
    record = read_record(run.record)
    run.record.write_text(record.but(state=State.QUEUED, next_stage="train").model_dump_json())
    refused = command(box.outputs, run.run_id, "--yes")
    assert (refused.returncode, f"runner cancel {run.run_id}" in refused.stderr) == (1, True)
    assert len(holding(run.root)) == 12
