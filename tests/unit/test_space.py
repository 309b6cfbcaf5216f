"""Turns sizes of what lies in a run folder into what must be free, and into what may go."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.clock import now
from runner.contract.batch import BatchPlan
from runner.contract.layout import RunFolder
from runner.contract.promotions import promote
from runner.contract.record import Attempt, RunRecord, write_record
from runner.contract.settings import Settings
from runner.contract.states import Stage, State
from runner.daemon.book import Live
from runner.daemon.daemon import Daemon
from runner.daemon.stages import start
from runner.daemon.stages.next_start import PASSED
from runner.daemon.stages.space import may_go, needed_bytes, short_of, still_to_write
from runner.files.settle import Look
from runner.spec.read_spec import read_spec

RESERVE = 1000
PLAN = BatchPlan(per_device_batch_size=1, gradient_accumulation_steps=1)


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    """The daemon of an empty box."""
    settings = Settings(
        jobs_dir=tmp_path / "jobs",
        outputs_dir=tmp_path / "outputs",
        models_dir=tmp_path / "models",
        device="cpu",
        min_free_bytes=RESERVE,
    )
    settings.outputs.private.mkdir(parents=True)
    return Daemon(settings)


def live(
    daemon: Daemon, *, trained: bool = False, exported: bool = False, **fields: object
) -> Live:
    """Give a run that has come so far."""
    run = daemon.outputs.run("job", "20261123T221005Z-k3f9")
    run.root.mkdir(parents=True)
    attempt = Attempt(number=1, batch_plan=PLAN, started_at=now(), outcome="succeeded")
    stage = Stage.TRAIN if fields.get("total_steps") else Stage.PREPARE
    if trained:
        stage = Stage.EVALUATE if exported else Stage.EXPORT
    record = RunRecord(
        job="job",
        run_id=run.run_id,
        state=State.QUEUED,
        file_name="job.yaml",
        created_at=now(),
        spec_sha256="",
        attempts=(attempt,) if trained else (),
        next_stage=stage,
        metrics={"adapter_files": {"a": "b"}} if exported else {},
        **fields,
    )
    spec = read_spec(b"model: m\ndata: d.jsonl\n", file_name="job.yaml")
    return Live(run=run, record=record, asked=spec)


def checkpoint(run: RunFolder, size: int) -> None:
    """Leave one of so many bytes."""
    run.checkpoint(3).mkdir(parents=True)
    (run.checkpoint(3) / "state").write_bytes(b"x" * size)


def test_before_prepare_there_is_room_for_the_copy_and_the_tokens(daemon: Daemon) -> None:
    """Five times the data, and the box owner's reserve."""
    assert needed_bytes(daemon, live(daemon), forecast=None, data_bytes=100) == RESERVE + 500


def test_before_training_there_is_room_for_what_is_forecast(daemon: Daemon) -> None:
    """What the run will take in all, less what already lies there."""
    run = live(daemon, total_steps=10)
    assert needed_bytes(daemon, run, forecast=900, data_bytes=0) == RESERVE + 900
    run.run.prepared.mkdir()
    (run.run.prepared / "rows").write_bytes(b"x" * 300)
    assert needed_bytes(daemon, run, forecast=900, data_bytes=0) == RESERVE + 600


def test_there_is_always_room_for_two_more_checkpoints(daemon: Daemon) -> None:
    """Whatever the forecast said: the newest one's size is what the next will take."""
    run = live(daemon, total_steps=10)
    checkpoint(run.run, 700)
    assert needed_bytes(daemon, run, forecast=900, data_bytes=0) == RESERVE + 1400
    assert needed_bytes(daemon, run, forecast=None, data_bytes=0) == RESERVE + 1400


def test_an_evaluation_needs_next_to_nothing(daemon: Daemon) -> None:
    """Only the reserve: it writes a few answers."""
    run = live(daemon, trained=True, exported=True, total_steps=10)
    assert needed_bytes(daemon, run, forecast=900, data_bytes=0) == RESERVE


def test_missing_space_is_told_with_both_figures(daemon: Daemon) -> None:
    """How much is free, how much is needed, and that nobody need do more than make room."""
    assert short_of(daemon, 1, 0.0) is None
    said = short_of(daemon, 2**60, 0.0)
    assert said is not None
    assert "GiB free, 1073741824.0 GiB needed" in said
    assert "goes on by itself" in said


def test_kept_bases_go_before_anything_else(daemon: Daemon, tmp_path: Path) -> None:
    """They can be made again from models/; where nothing is short they stay."""
    entry = daemon.outputs.base_cache / "entry"
    entry.mkdir(parents=True)
    (tmp_path / "config.json").touch()
    (entry / "facts.json").write_text(json.dumps({"folder": str(tmp_path), "files": {}}))
    assert short_of(daemon, 1, 100.0) is None
    assert entry.exists()
    assert short_of(daemon, 2**60, 100.0)
    assert not entry.exists()


@pytest.mark.parametrize(
    ("newest_good", "best", "whole", "gone"),
    [
        ("c", "c", False, ["a", "b"]),
        ("c", "a", False, ["b"]),
        ("b", None, False, ["a", "c"]),
        (None, "a", False, []),
        ("c", "a", True, ["a", "b", "c"]),
        (None, None, True, ["a", "b", "c"]),
    ],
)
def test_the_last_good_checkpoint_goes_only_for_a_whole_adapter(
    newest_good: str | None,
    best: str | None,
    whole: bool,  # noqa: FBT001
    gone: list[str],
) -> None:
    """Of three checkpoints of a run that has ended: what is freed when the disk is short."""
    found = may_go(["c", "a", "b"], newest_good=newest_good, best=best, adapter_is_whole=whole)
    assert found == gone


def test_exports_of_runs_that_are_not_in_use_go(daemon: Daemon) -> None:
    """Merged weights of the run in use and of the one before it stay, however short the disk is."""
    runs = [daemon.outputs.run("job", f"2026112{day}T221005Z-k3f9") for day in range(3)]
    for run in runs:
        for folder in (run.merged, run.gguf, run.adapter):
            folder.mkdir(parents=True)
            (folder / "adapter_model.safetensors").write_bytes(b"x")
        record = RunRecord(
            job="job",
            run_id=run.run_id,
            state=State.SUCCEEDED,
            file_name="job.yaml",
            created_at=now(),
            spec_sha256="",
        )
        write_record(run.record, record)
        promote(daemon.outputs, run, why="better", by="anna")
    assert short_of(daemon, 1, 100.0) is None
    assert all(run.merged.is_dir() for run in runs)
    assert short_of(daemon, 2**60, 200.0)
    assert [run.merged.exists() for run in runs] == [False, True, True]
    assert [run.gguf.exists() for run in runs] == [False, True, True]
    assert all(run.adapter.is_dir() for run in runs)


def test_runs_that_are_prepared_at_once_count_each_other(daemon: Daemon) -> None:
    """Each saw the same room: five times its own data, less what it has written."""
    run = live(daemon)
    assert still_to_write(daemon, Stage.PREPARE) == 0
    run.stage, run.child = Stage.PREPARE, object()  # type: ignore[assignment]
    run.data_looks = (Look(inode=1, size_bytes=100, mtime_ns=0), None)
    daemon.book.runs[run.record.run_id] = run
    assert still_to_write(daemon, Stage.PREPARE) == 500
    assert still_to_write(daemon, Stage.TRAIN) == 500
    assert still_to_write(daemon, Stage.EVALUATE) == 0
    run.run.data.mkdir()
    (run.run.data / "d.jsonl").write_bytes(b"x" * 100)
    assert still_to_write(daemon, Stage.PREPARE) == 400


def test_who_is_prepared_beside_a_training_does_not_count_it(daemon: Daemon) -> None:
    """A training that lacks room later leaves a checkpoint; another training counts it."""
    run = live(daemon, total_steps=10, forecast={"disk_bytes": 900})
    run.stage, run.child = Stage.TRAIN, object()  # type: ignore[assignment]
    daemon.book.runs[run.record.run_id] = run
    assert still_to_write(daemon, Stage.PREPARE) == 0
    assert still_to_write(daemon, Stage.TRAIN) == 900


def test_a_run_is_prepared_only_with_room_for_those_beside_it(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it waits for tells how much it asked for."""
    beside = live(daemon)
    beside.stage, beside.child = Stage.PREPARE, object()  # type: ignore[assignment]
    beside.data_looks = (Look(inode=1, size_bytes=100, mtime_ns=0),)
    daemon.book.runs[beside.record.run_id] = beside
    monkeypatch.setattr(start, "short_of", lambda _daemon, needed, _at: f"{needed} bytes")
    mine = replace(beside, stage=None, child=None)
    on: Any = SimpleNamespace(planned=SimpleNamespace(ahead=None))
    assert start._begin_where_room(daemon, mine, on) == PASSED
    assert mine.record.waiting is not None
    assert mine.record.waiting.reason == f"{RESERVE + 500} bytes"
