"""Turns drops into runs with the real daemon and a stand-in stage: every way a run can go."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_box import Box, wait_until

from runner.contract.layout import StageFolder
from runner.contract.settings import Settings
from runner.contract.stage_io import TrainPlan, read_message
from runner.contract.states import State
from runner.daemon.conductor import Conductor


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """An empty box."""
    return Box(tmp_path)


def test_a_drop_becomes_a_run_that_succeeds(box: Box) -> None:
    """A spec and its data are enough: the run goes through all stages and says where things lie."""
    box.drop("contracts")
    done = box.once()
    assert done.returncode == 0, done.stderr
    record = box.record()
    assert record.state is State.SUCCEEDED
    assert record.job == "contracts"
    assert [attempt.outcome for attempt in record.attempts] == ["succeeded"]
    assert (record.attempts[0].first_step, record.attempts[0].last_step) == (1, 8)
    answer = box.answer("done")
    assert "succeeded" in answer
    assert f"outputs/contracts/{record.run_id}/adapter/" in answer
    assert "Nothing needs a person." in (box.jobs / "STATUS.txt").read_text()
    assert not list((box.jobs / "queued").iterdir())
    assert not list((box.jobs / "running").iterdir())


def test_a_drop_that_no_event_tells_of_is_seen(box: Box) -> None:
    """On a share no event comes from another machine: the inbox is looked at every second."""
    with box.watching(polling=True, rescan_seconds=3600):
        wait_until((box.jobs / "STATUS.txt").exists)
        box.drop("contracts")
        wait_until(lambda: box.in_state(State.SUCCEEDED))


def test_the_daemon_never_imports_torch(box: Box) -> None:
    """After a whole run the daemon's process still has no torch in it."""
    box.drop("contracts")
    assert box.once().stdout.strip() == "False"


def test_out_of_memory_is_retried_with_the_halved_plan(box: Box) -> None:
    """An out-of-memory costs no step: the next attempt goes on with half the batch."""
    box.drop("contracts", train=["train 3 then 11", "ok"])
    done = box.once()
    assert done.returncode == 0, done.stderr
    first, second = box.record().attempts
    assert (first.outcome, first.last_step) == ("out of memory", 3)
    assert (second.outcome, second.first_step, second.last_step) == ("succeeded", 4, 8)
    assert first.batch_plan.per_device_batch_size == 4
    assert second.batch_plan.per_device_batch_size == 2
    assert second.batch_plan.effective_batch_size == 16
    assert "halved: 4 × 4 → 2 × 8, same effective batch 16" in box.answer("done")


def test_a_fast_path_that_failed_is_not_tried_again(box: Box) -> None:
    """Whatever ends the attempt that left it: each later one of the run begins plainly."""
    box.drop("contracts", train=["train 3 then plain -9", "train 2 then 11", "ok"])
    assert box.once().returncode == 0
    record = box.record()
    assert [attempt.left_fast_path for attempt in record.attempts] == [True, False, False]
    run = box.outputs.run(record.job, record.run_id)
    folders = [StageFolder(run.attempt(one.number, one.token)) for one in record.attempts]
    plans = [read_message(folder.plan, TrainPlan) for folder in folders]
    assert [plan.fast for plan in plans] == [None, False, False]


@pytest.mark.parametrize(
    ("text", "chosen", "method"), [("", "unknown", "qlora"), ("method: lora\n", None, "lora")]
)
def test_the_method_is_in_every_plan(box: Box, text: str, chosen: str | None, method: str) -> None:
    """Left to the box it stands in the record as well, from the first attempt on."""
    (box.jobs / "contracts.jsonl").write_text(json.dumps({"train": ["train 3 then 11", "ok"]}))
    box.drop_spec("contracts", text)
    assert box.once().returncode == 0
    record = box.record()
    assert (record.method and record.method.why) == chosen  # this model's config names no sizes
    plans = box.outputs.run(record.job, record.run_id).root.rglob("plan.json")
    named = [(plan.parent.name, json.loads(plan.read_text())["method"]) for plan in plans]
    before = None if chosen else method
    assert ("prepared", before) in named
    later = [told for stage, told in named if stage != "prepared"]
    assert later == [method] * 4  # two attempts, export and evaluation


def test_memory_that_ran_out_before_the_first_step_goes_on_smaller(box: Box) -> None:
    """The check of the set-up ran out: its result holds the error alone, and is judged as one."""
    box.drop("contracts", train=["bare 11", "bare 11", "ok"])
    assert box.once().returncode == 0
    attempts = box.record().attempts
    assert [attempt.outcome for attempt in attempts] == ["out of memory"] * 2 + ["succeeded"]
    assert [str(attempt.batch_plan) for attempt in attempts] == ["4 × 4", "2 × 8", "1 × 16"]
    assert [attempt.last_step for attempt in attempts] == [0, 0, 8]
    assert "halved: 4 × 4 → 2 × 8, same effective batch 16" in box.answer("done")


def test_a_job_that_fits_in_no_size_fails_for_its_memory(box: Box) -> None:
    """Where each attempt says no more than its error, the person learns what ran out."""
    box.drop("contracts", train=["bare 11"])
    assert box.once().returncode == 1
    record = box.record()
    assert record.state is State.FAILED
    assert {attempt.outcome for attempt in record.attempts} == {"out of memory"}
    assert record.attempts[-1].batch_plan.activation_checkpointing
    assert record.error is not None


def test_a_stage_sees_only_the_environment_that_is_meant_for_it(box: Box) -> None:
    """No variable of the daemon's reaches a stage unless it is on the list."""
    box.drop("contracts")
    box.once()
    (run,) = box.outputs.runs()
    seen = json.loads((run.prepared / "environment.json").read_text())
    assert "HF_TOKEN" not in seen
    assert seen["HF_HUB_OFFLINE"] == "1"
    assert seen["HOME"] == str(box.outputs.cache)


@pytest.mark.parametrize(
    ("measured", "sentence"),
    [
        ({"adapter_is_zero": True}, "This run changed nothing: "),
        ({"eval_loss_after": 48.913, "change_low": 1.0, "change_high": 90.0}, "Careful: "),
        ({"eval_loss_after": None, "change_low": None, "change_high": None}, "Careful: "),
        ({"eval_loss_after": 3.0, "change_low": -0.1, "change_high": 0.1}, "Careful: "),
    ],
)
def test_a_run_that_nobody_should_use_unseen_needs_a_person(
    box: Box, measured: dict[str, object], sentence: str
) -> None:
    """It succeeded, but the record, STATUS.txt, `status` and `show` say that it did no good."""
    (box.jobs / "contracts.jsonl").write_text(json.dumps({"measured": measured}))
    box.drop_spec("contracts")
    assert box.once().returncode == 0
    record = box.record()
    assert record.state is State.SUCCEEDED
    assert record.verdict is not None
    assert record.verdict.needs_person
    assert record.verdict.reason.startswith(sentence)
    status = (box.jobs / "STATUS.txt").read_text()
    assert status.startswith(f"Needs a person:\n  contracts ({record.run_id}): {sentence}")
    for command in (["status"], ["show", "contracts"]):
        words = [sys.executable, "-m", "runner.cli", *command]
        told = subprocess.run(
            words,
            cwd=box.root,
            env={**os.environ, "COLUMNS": "400", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert sentence in told.stdout, command


def test_cached_tokens_go_with_a_run_that_was_deleted_by_hand(box: Box) -> None:
    """While its folder is there they stay; the daemon's next look removes what nobody has."""
    entries = {}
    for name in ("kept", "erased"):
        prepared = box.outputs.root / name / "20261126T120000Z-abcd" / "prepared"
        prepared.mkdir(parents=True)
        (prepared / "rows.arrow").write_bytes(b"tokens")
        entries[name] = box.outputs.token_cache / name
        entries[name].mkdir(parents=True)
        (entries[name] / "facts.json").write_text("{}")
        os.link(prepared / "rows.arrow", entries[name] / "rows.arrow")
    with box.watching(polling=True):
        wait_until((box.jobs / "STATUS.txt").exists)
        assert all(entry.is_dir() for entry in entries.values())
    shutil.rmtree(box.outputs.root / "erased")
    box.drop("contracts")
    assert box.once().returncode == 0
    assert [entry.is_dir() for entry in entries.values()] == [True, False]


def test_a_daemon_that_goes_on_for_months_sweeps_too(box: Box) -> None:
    """Ten minutes after a folder was deleted its tokens are gone, without a start or a new job."""
    entry = box.outputs.token_cache / "erased"
    entry.mkdir(parents=True)
    for name in ("facts.json", "rows.arrow"):
        (entry / name).write_text("{}")
    folders = {"jobs_dir": box.jobs, "outputs_dir": box.outputs.root, "models_dir": box.root}
    conductor = Conductor(Settings(**folders))
    conductor._swept_at = 1000.0
    conductor._sweep(1599.0)
    assert entry.is_dir()
    conductor._sweep(1600.0)
    assert not entry.exists()
