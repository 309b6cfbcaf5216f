"""`runner erase` with the real daemon and a stand-in stage: rows go, and nothing else does."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from daemon_box import REPOSITORY, Box, attempt_of, wait_until

from runner.commands.erase import runs_named
from runner.contract.layout import Outputs, RunFolder, rate_name, rate_names, report_name
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


@pytest.fixture(scope="module")
def ran_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Let the run succeed that the tests below begin with: each takes a copy of its box."""
    box = Box(tmp_path_factory.mktemp("once"))
    ran(box)
    return box.root


@pytest.fixture(scope="module")
def ran_twice(ran_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with another run of the job."""
    root = tmp_path_factory.mktemp("twice") / "box"
    box = Box(shutil.copytree(ran_once, root, symlinks=True))
    ran(box)
    return box.root


@pytest.fixture
def box(ran_once: Path, tmp_path: Path) -> Box:
    """A box with one run."""
    return Box(shutil.copytree(ran_once, tmp_path / "box", symlinks=True))


@pytest.fixture
def box_of_two(ran_twice: Path, tmp_path: Path) -> Box:
    """A box with two runs of a job."""
    return Box(shutil.copytree(ran_twice, tmp_path / "box", symlinks=True))


def holding(folder: Path) -> set[str]:
    """List the files that hold a row."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and ROW in path.read_bytes()
    }


def test_rows_of_a_run_go_and_its_record_says_so(box_of_two: Box) -> None:
    """Only the adapter, the record, the log and the curve stay; the answer tells it."""
    box = box_of_two
    run, other = box.outputs.runs_of("contracts")
    curve = (attempt_of(run, 1) / "metrics.jsonl").read_bytes()
    state = read_record(run.record)
    page = box.jobs / "done" / report_name(state.file_name, run.run_id)
    (box.jobs / "rate").mkdir()
    tables = [box.jobs / "rate" / name for name in rate_names(run.job, run.run_id)]
    tables += [table.with_name(f"{table.name}.txt") for table in tables]
    foreign = box.jobs / "rate" / rate_name(other.job, other.run_id, "xlsx")
    for path in (page, foreign, *tables):
        path.write_bytes(ROW)
    box.outputs.heartbeat.unlink()
    with box.watching():
        wait_until((box.outputs.heartbeat).exists)
        asked = command(box.outputs, run.run_id, "--yes")
        assert (asked.returncode, "the box does it at once" in asked.stdout) == (0, True)
        wait_until(lambda: read_record(run.record).erased and not read_requests(box.outputs))
        wait_until(lambda: not any(path.exists() for path in (page, *tables)))
    assert holding(run.root) == {"adapter/adapter_model.safetensors"}
    assert len(tables) == 6  # CSV, .xlsx and .ods, each with the box's answer
    assert foreign.read_bytes() == ROW
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


def test_where_no_daemon_runs_it_is_done_at_once(box_of_two: Box) -> None:
    """All runs of a job, adapters too; twice does no harm; pages on the share go at its start."""
    box = box_of_two
    runs = box.outputs.runs_of("contracts")
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


def test_nothing_goes_without_a_yes(box: Box) -> None:
    """Where nobody can be asked, the command says what it would do and how to say yes."""
    (run,) = box.outputs.runs()
    asked = command(box.outputs, "contracts")
    assert asked.returncode == 1
    assert "nothing brings them back" in asked.stderr
    assert "--yes" in asked.stderr
    assert len(holding(run.root)) == 12
    assert read_requests(box.outputs) == []


@pytest.mark.parametrize("name", ["", "..", "/", "../outputs/..", "."])
def test_an_empty_name_erases_nothing(tmp_path: Path, name: str) -> None:
    """A script's variable that is not set must not stand for the only run that there is."""
    run = Outputs(tmp_path / "outputs").run("job", "20261123T221005Z-k3f9")
    run.root.mkdir(parents=True)
    run.record.write_text("{}")
    refused = command(Outputs(tmp_path / "outputs"), name, "--yes")
    assert refused.returncode == 1
    assert "no job or run is called" in refused.stderr
    assert run.record.exists()


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("contracts", True),
        ("Contracts", True),
        ("contracts/", True),
        ("outputs/contracts", True),
        ("20261124T221005Z-k3f9", False),
        ("contracts/20261124T221005Z-k3f9/", False),
        ("k3f9", False),
    ],
)
def test_a_path_names_what_it_leads_to(tmp_path: Path, name: str, whole: bool) -> None:  # noqa: FBT001
    """The folder that a shell completes is the whole job, and a run's is that run."""
    outputs = Outputs(tmp_path)
    ids = ["20261123T221005Z-aaaa", "20261124T221005Z-k3f9"]
    for run_id in ids:
        outputs.run("contracts", run_id).root.mkdir(parents=True)
    found, is_job = runs_named(outputs, name)
    assert ([run.run_id for run in found], is_job) == (ids if whole else ids[1:], whole)


@pytest.mark.parametrize("by_request", [False, True])
def test_the_adapter_in_use_stays(box: Box, by_request: bool) -> None:  # noqa: FBT001
    """It is refused before anything goes, by the command and by the daemon; its rows may go."""
    (run,) = box.outputs.runs()
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


def test_a_link_in_the_run_is_not_followed(tmp_path: Path, box: Box) -> None:
    """What somebody linked into a run's folder is not the run's: the link goes alone."""
    (run,) = box.outputs.runs()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(ROW)
    (run.root / "linked").symlink_to(outside)
    (run.data / "linked").symlink_to(outside / "kept")
    assert command(box.outputs, run.run_id, "--yes").returncode == 0
    assert holding(outside) == {"kept"}
    assert not (run.root / "linked").is_symlink()


def test_a_run_under_way_is_cancelled_first(box: Box) -> None:
    """Its rows are needed: the command names the one that ends it, and the daemon refuses, too."""
    (run,) = box.outputs.runs()
    record = read_record(run.record)
    run.record.write_text(record.but(state=State.QUEUED, next_stage="train").model_dump_json())
    refused = command(box.outputs, run.run_id, "--yes")
    assert (refused.returncode, f"runner cancel {run.run_id}" in refused.stderr) == (1, True)
    assert len(holding(run.root)) == 12


@pytest.mark.parametrize("verb", ["export", "evaluate", "promote"])
def test_nothing_begins_with_a_run_that_is_just_being_erased(box: Box, verb: str) -> None:
    """What was asked for meanwhile waits, and is then refused: the record still says so.

    Begun meanwhile, it would read files that are going, write new ones from the rows, and write
    the record as it was before.
    """
    (run,) = box.outputs.runs()
    for number in range(4000):  # so that the thread is at work for a while
        (run.data / f"{number}").write_bytes(ROW)
    how = {"with_adapter": True, "whole_job": True}
    leave_request(box.outputs, "erase", job=run.job, run_id=run.run_id, by="x", **how)
    leave_request(box.outputs, verb, job=run.job, run_id=run.run_id, merged=True, by="x")
    done = box.once()
    assert done.returncode == 0, done.stderr
    assert read_requests(box.outputs) == []
    record = read_record(run.record)
    assert record.erased is not None
    assert record.handed_over is None
    assert current_run(box.outputs, run.job) is None
    assert holding(run.root) == set()
    assert not run.hand_over.exists()


@pytest.mark.parametrize("damage", ["broken", "gone"])
def test_a_damaged_run_does_not_keep_the_others_rows(box_of_two: Box, damage: str) -> None:
    """The job's other runs are erased; the one whose record cannot be read is named, and exit 1."""
    box = box_of_two
    good, bad = box.outputs.runs_of("contracts")
    if damage == "gone":
        bad.record.unlink()
    else:
        bad.record.write_text("{")
    done = command(box.outputs, "contracts", "--with-adapter", "--yes")
    assert done.returncode == 1
    assert holding(good.root) == set()
    assert len(holding(bad.root)) == 12
    assert f"NOT erased: contracts/{bad.run_id}, whose run.json cannot be read" in done.stderr
    assert f"delete its folder outputs/contracts/{bad.run_id}/" in done.stderr
    assert "Erased 1 of contracts's runs" in done.stdout
    alone = command(box.outputs, bad.run_id, "--yes")
    assert (alone.returncode, "Traceback" in alone.stderr) == (1, False)
    assert "cannot be read" in alone.stderr


_KILLED = """
import os, shutil, signal, sys
from runner.contract import erase, promotions
steps = int(sys.argv.pop(1))
def counted(sound):
    def call(*args, **how):
        global steps
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return sound(*args, **how)
    return call
os.unlink, shutil.rmtree = counted(os.unlink), counted(shutil.rmtree)
erase.write_record, erase.withdraw = counted(erase.write_record), counted(erase.withdraw)
from runner.cli import main
main()
"""
"""`runner`, killed before the removal, change of what is in use, or record of that number."""


@pytest.mark.long
def test_a_kill_at_any_step_is_made_good_at_the_next_start(tmp_path: Path, box: Box) -> None:
    """The request was left first: the daemon finishes what the command began, and records it."""
    (run,) = box.outputs.runs()
    promote(box.outputs, run, why="a test", by="a test")
    words = ["erase", run.job, "--with-adapter", "--yes"]
    ends = []
    for steps in (0, 1, 2, 3, 6, 10, 14, 99):
        copy = Box(shutil.copytree(box.root, tmp_path / f"{steps}", symlinks=True))
        killed = subprocess.run(
            [sys.executable, "-c", _KILLED, str(steps), *words, "--outputs-dir", copy.outputs.root],
            cwd=REPOSITORY,
            capture_output=True,
            check=False,
        )
        ends.append(killed.returncode)
        done = copy.once()
        assert done.returncode == 0, done.stderr
        assert holding(copy.outputs.root) == set(), steps
        (record,) = copy.records()
        assert record.erased is not None, steps
        assert record.erased.adapter, steps
        assert current_run(copy.outputs, run.job) is None
        assert not copy.outputs.current(run.job).is_symlink()
        assert read_requests(copy.outputs) == []
    assert ends[:-1] == [-signal.SIGKILL] * (len(ends) - 1)
    assert ends[-1] == 0
