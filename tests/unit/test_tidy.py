"""Large files of old runs go by themselves; adapters, records and what is in use stay."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
from made_runs import record

from runner.contract.ended import read_ended
from runner.contract.erase import erase
from runner.contract.layout import RunFolder
from runner.contract.promotions import promote, roll_back
from runner.contract.record import read_record, write_record
from runner.contract.settings import Settings
from runner.contract.states import State
from runner.daemon.daemon import Daemon
from runner.daemon.hashes import AT_ONCE_BYTES
from runner.daemon.rounds import LIMIT_SECONDS
from runner.daemon.stages.space import short_of
from runner.daemon.tidy import Tidy

HEAVY = (
    "checkpoints/step-00000006/state",
    "data/c.jsonl",
    "prepared/train/data.arrow",
    "prepared/eval/data.arrow",
    "prepared/rows.arrow",
    "merged/model.safetensors",
    "gguf/contracts-q4_k_m.gguf",
)
LIGHT = (
    "adapter/adapter_model.safetensors",
    "prepared/samples.json",
    "prepared/findings.json",
    "evaluation/scores.jsonl",
    "report.html",
    "spec.yaml",
    "log.jsonl",
)
WEIGHTS = b"the adapter"


def daemon_of(root: Path, **settings: Any) -> Daemon:
    """Give the daemon of an empty box."""
    made = Settings(
        jobs_dir=root / "jobs",
        outputs_dir=root / "outputs",
        models_dir=root / "models",
        device="cpu",
        **settings,
    )
    made.outputs.private.mkdir(parents=True, exist_ok=True)
    return Daemon(made)


def ended(daemon: Daemon, day: int, state: State = State.SUCCEEDED, **fields: Any) -> RunFolder:
    """Leave a run that has ended, with everything that a run may have."""
    run = daemon.outputs.run("contracts", f"202611{day:02d}T020000Z-aaaa")
    for name in (*HEAVY, *LIGHT):
        (run.root / name).parent.mkdir(parents=True, exist_ok=True)
        (run.root / name).write_bytes(WEIGHTS)
    files = {"adapter_model.safetensors": hashlib.sha256(WEIGHTS).hexdigest()}
    made = record(
        run_id=run.run_id, state=state, sequence=day, metrics={"adapter_files": files}, **fields
    )
    write_record(run.record, made)
    daemon.book.ends.note(job=run.job, run_id=run.run_id, state=state.value, sequence=made.sequence)
    return run


def tidy(daemon: Daemon) -> None:
    """Go round until nothing is left to do, no round taking longer than one may."""
    daemon.to_tidy.add("contracts")
    work, end = Tidy(daemon), time.monotonic() + 60
    while work.is_busy:
        assert time.monotonic() < end
        began = time.thread_time()  # of its own: the host may be busy
        work.go_on()
        assert time.thread_time() - began < LIMIT_SECONDS
        if work.is_busy:
            daemon.wakeup.wait(1.0)


def left(run: RunFolder) -> set[str]:
    """Name what is still there of the large files, by their folder."""
    for name in LIGHT:
        assert (run.root / name).exists(), name
    return {name.rpartition("/")[0] or name for name in HEAVY if (run.root / name).exists()}


ALL = {name.rpartition("/")[0] for name in HEAVY}
CHECKPOINT = {"checkpoints/step-00000006"}
EXPORTS = {"merged", "gguf"}


def test_checkpoints_go_once_the_adapter_is_whole(tmp_path: Path) -> None:
    """Those of a run whose adapter was damaged stay, and those of one that did not succeed."""
    daemon = daemon_of(tmp_path)
    good, damaged = ended(daemon, 1), ended(daemon, 2)
    failed = ended(daemon, 3, State.FAILED)
    (damaged.adapter / "adapter_model.safetensors").write_bytes(b"other bytes")
    tidy(daemon)
    assert left(good) == ALL - CHECKPOINT
    assert left(damaged) == left(failed) == ALL
    assert read_record(good.record).cleared is None
    log = good.log.read_text()
    assert '"removed": ["checkpoints"]' in log
    assert good.run_id in daemon.outputs.daemon_log.read_text()
    assert list(daemon.outputs.going.iterdir()) == []


def test_rows_of_old_runs_go_and_their_records_say_so(tmp_path: Path) -> None:
    """The newest so many keep theirs; an index of ended runs still counts for the others."""
    daemon = daemon_of(tmp_path, keep_runs=2)
    old, cancelled = ended(daemon, 1), ended(daemon, 2, State.CANCELLED)
    good, last_good, failed = ended(daemon, 3), ended(daemon, 4), ended(daemon, 5, State.FAILED)
    tidy(daemon)
    assert left(old) == EXPORTS  # nothing is in use: they may be served from here
    assert left(cancelled) == EXPORTS
    assert left(good) == EXPORTS
    assert left(last_good) == ALL - CHECKPOINT
    assert left(failed) == ALL
    for run, gone in ((old, True), (cancelled, True), (last_good, False), (failed, False)):
        assert (read_record(run.record).cleared is not None) is gone
    assert old.run_id in read_ended(daemon.outputs)


def test_what_is_in_use_and_what_a_rollback_brings_back_stay(tmp_path: Path) -> None:
    """Also when they are older than all that stays otherwise; merged weights of others go."""
    daemon = daemon_of(tmp_path, keep_runs=1)
    first, before, current, other, last = (ended(daemon, day) for day in range(1, 6))
    for run in (first, before, current):
        promote(daemon.outputs, run, why="better", by="anna")
    tidy(daemon)
    assert left(current) == left(before) == left(last) == ALL - CHECKPOINT
    assert left(first) == left(other) == set()
    roll_back(daemon.outputs, "contracts", by="anna")
    tidy(daemon)
    assert left(before) == left(current) == ALL - CHECKPOINT


def test_rows_that_replay_may_need_stay(tmp_path: Path) -> None:
    """A kept run went on from an older one's adapter, and that from another's."""
    daemon = daemon_of(tmp_path, keep_runs=1)
    first = ended(daemon, 1)
    second = ended(daemon, 2, started_from=first.run_id)
    aside = ended(daemon, 3, started_from=first.run_id)
    ended(daemon, 4, started_from=second.run_id)
    tidy(daemon)
    assert left(first) == left(second) == ALL - CHECKPOINT
    assert left(aside) == EXPORTS


def test_nothing_goes_of_a_run_that_is_not_over_or_cannot_be_read(tmp_path: Path) -> None:
    """Nor while a run is at work again: it is put off."""
    daemon = daemon_of(tmp_path, keep_runs=1)
    under_way, unreadable = ended(daemon, 1), ended(daemon, 2)
    for day in (3, 4):
        ended(daemon, day)
    write_record(under_way.record, read_record(under_way.record).but(state=State.TRAINING))
    unreadable.record.write_text("{")
    tidy(daemon)
    assert left(under_way) == left(unreadable) == ALL
    good = ended(daemon, 5)
    work = Tidy(daemon)
    daemon.to_tidy.add("contracts")
    daemon.erasing = object()
    work.go_on()
    assert left(good) == ALL
    assert work.is_busy


def test_a_job_on_a_disk_of_its_own_is_tidied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be renamed into the box's folder from there: beside itself, as half written."""
    daemon = daemon_of(tmp_path)
    old = ended(daemon, 1)
    for day in range(2, 8):
        ended(daemon, day)
    rename, beside = os.rename, []

    def only_within(source: Path, target: Path, **folders: Any) -> None:
        if Path(target).parent == daemon.outputs.going:
            raise OSError(errno.EXDEV, "another disk")
        if Path(source).is_dir():
            beside.append(Path(target).name)
        rename(source, target, **folders)

    monkeypatch.setattr(os, "rename", only_within)
    tidy(daemon)
    assert left(old) != ALL
    assert beside
    assert all(name.startswith(".tmp-") for name in beside)
    assert not list(tmp_path.rglob(".tmp-*"))


def test_what_a_killed_daemon_left_is_deleted(tmp_path: Path) -> None:
    """By the next one; or by an erasure, should that come first."""
    daemon = daemon_of(tmp_path)
    half = daemon.outputs.going / "0123456789ab" / "deep"
    half.mkdir(parents=True)
    (half / "rows.arrow").write_bytes(b"rows")
    (daemon.outputs.going / "ba9876543210").write_bytes(b"rows")
    tidy(daemon)
    assert list(daemon.outputs.going.iterdir()) == []
    half.mkdir(parents=True)
    run = ended(daemon, 1)
    erase(daemon.outputs, run, by="anna", with_adapter=False, whole_job=False)
    assert not half.exists()


def test_a_run_that_comes_into_use_meanwhile_keeps_its_exports(tmp_path: Path) -> None:
    """What was decided before it did is decided again, also where nobody told the daemon."""
    daemon = daemon_of(tmp_path)
    runs = [ended(daemon, day) for day in range(1, 6)]
    (runs[1].adapter / "adapter_model.safetensors").write_bytes(b"x" * 2 * AT_ONCE_BYTES)
    for run in runs[2:4]:
        promote(daemon.outputs, run, why="better", by="anna")
    first, other = runs[:2]
    files = {"adapter_model.safetensors": hashlib.sha256(b"x" * 2 * AT_ONCE_BYTES).hexdigest()}
    write_record(other.record, read_record(other.record).but(metrics={"adapter_files": files}))
    work = Tidy(daemon)
    daemon.to_tidy.add("contracts")
    work.go_on()
    assert left(first) == ALL  # the first round of a daemon has enough to do
    work.go_on()  # it waits for the hash of the second run's adapter
    assert left(first) == ALL - CHECKPOINT - EXPORTS
    assert left(other) == ALL
    promote(daemon.outputs, other, why="a person asked", by="anna")
    end = time.monotonic() + 60
    while work.is_busy and time.monotonic() < end:
        work.go_on()
    assert left(other) == ALL - CHECKPOINT


def test_a_folder_that_is_a_link_is_not_looked_into(tmp_path: Path) -> None:
    """Somebody moved prepared/ to another disk: what lies there is not the box's to remove."""
    daemon = daemon_of(tmp_path, keep_runs=1)
    old = ended(daemon, 1)
    ended(daemon, 2)
    elsewhere = tmp_path / "elsewhere"
    old.prepared.rename(elsewhere)
    old.prepared.symlink_to(elsewhere)
    tidy(daemon)
    assert (elsewhere / "train" / "data.arrow").exists()
    assert not old.data.exists()


@pytest.mark.parametrize("runs", [120])
def test_many_runs_are_looked_through_in_short_rounds(tmp_path: Path, runs: int) -> None:
    """No round is long, however many runs have something that may go."""
    daemon = daemon_of(tmp_path, keep_runs=1)
    made = record(job="contracts", state=State.FAILED)
    for number in range(runs):
        run = daemon.outputs.run("contracts", f"20261101T{number:06d}Z-aaaa")
        run.data.mkdir(parents=True)
        write_record(run.record, made.but(run_id=run.run_id))
    tidy(daemon)
    assert [run.run_id for run in daemon.outputs.runs() if run.data.exists()] == [run.run_id]


def test_exports_of_an_erased_run_stay(tmp_path: Path) -> None:
    """Nobody can make them again: neither newer runs nor a short disk take them."""
    daemon = daemon_of(tmp_path)
    old, new = ended(daemon, 1), ended(daemon, 2)
    erase(daemon.outputs, old, by="anna", with_adapter=False, whole_job=False)
    promote(daemon.outputs, new, why="better", by="a test")
    daemon.to_tidy.add("contracts")
    work = Tidy(daemon)
    while work.is_busy:
        work.go_on()
    assert {path.name for path in old.root.iterdir()} >= EXPORTS
    short_of(daemon, 2**62, time.monotonic())
    while daemon.room_search is not None:
        short_of(daemon, 2**62, time.monotonic())
    assert {path.name for path in old.root.iterdir()} >= EXPORTS
