"""The process that stands by: stages begin in it, and nothing else is different."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from daemon_box import REPOSITORY, STANDIN, Box, attempt_of, wait_until

from runner.contract.layout import StageFolder
from runner.contract.stage_environment import BOX
from runner.contract.standing_by import STAND_BY
from runner.contract.states import Stage, State
from runner.daemon.stages.stand_by import StandBy
from runner.daemon.start.end_orphans import end_orphans
from runner.errors import BusyError
from runner.files.lock import Lock

ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
SLEEPER = """
import sys, time
from runner.training import stand_by
stand_by.IMPORTED = ()
stage, folder = stand_by.stand_by()
print(stage, folder, flush=True)
time.sleep(600)
"""


def standing_by(outputs: Path) -> list[int]:
    """List the processes that stand by for a daemon of this test."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
                environment = Path(entry.path, "environ").read_bytes()
            except OSError:
                continue
            if STAND_BY.encode() in words and str(outputs).encode() in environment:
                found.append(int(entry.name))
    return found


def test_stages_begin_in_it(tmp_path: Path) -> None:
    """All that work on the card; an export imports little. Afterwards none is left."""
    box = Box(tmp_path)
    box.drop("first", train=["train 3 then 75", "ok"])
    box.drop("second")
    done = box.once(stand_by=True)
    assert done.returncode == 0, done.stderr
    logs = [
        (path.name, "stood by" in path.read_text())
        for record in box.records()
        for path in box.outputs.run(record.job, record.run_id).root.rglob("*.log")
        if path.name != "prepare.log"  # the first may begin before anything stands by
    ]
    on_card = [("train.log", True)] * 3 + [("evaluate.log", True)] * 2
    assert sorted(logs) == sorted([*on_card, ("export.log", False), ("export.log", False)])
    assert not standing_by(box.outputs.root)


def test_without_a_card_none_is_started(tmp_path: Path) -> None:
    """A start is a small part of a run there."""
    box = Box(tmp_path)
    box.drop("first")
    box.once()
    (record,) = box.records()
    root = box.outputs.run(record.job, record.run_id).root
    assert not [path for path in root.rglob("*.log") if "stood by" in path.read_text()]


def test_one_that_was_killed_is_done_without(tmp_path: Path) -> None:
    """The stages begin in processes of their own, and the run succeeds."""
    box = Box(tmp_path)
    box.drop("first", train=["hang", "ok"])
    with box.watching(stand_by=True):
        # While a stage hangs, what stands by is not just being handed to the next one.
        wait_until(lambda: list(box.outputs.root.glob("first/*/attempts/01-*/hanging")))
        (process,) = box.outputs.root.glob("first/*/attempts/01-*/process")
        train = int(process.read_text().split()[0])
        (pid,) = wait_until(lambda: [p for p in standing_by(box.outputs.root) if p != train])
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pid}").exists())  # the daemon has seen it
        os.kill(train, signal.SIGKILL)
        wait_until(lambda: [r.state for r in box.records()] == [State.SUCCEEDED])
        (record,) = box.records()
        run = box.outputs.run(record.job, record.run_id)
        begun_before = (run.prepared, attempt_of(run, 1))
        logs = [log for log in run.root.rglob("*.log") if log.parent not in begun_before]
        assert len(logs) == 3
        assert not [log for log in logs if "stood by" in log.read_text()]


def test_one_that_cannot_start_is_not_tried_each_second(tmp_path: Path) -> None:
    """A stage command that knows nothing of standing by works as before: one try for each seat."""
    box = Box(tmp_path)
    log = tmp_path / "calls"
    command = tmp_path / "stage"
    command.write_text(
        f'#!/bin/sh\necho "$1" >> {log}\n[ "$1" = {STAND_BY} ] && exit 3\n'
        f'exec {sys.executable} {STANDIN} "$@"\n'
    )
    command.chmod(0o755)
    box.drop("first", train=["train 1 then 75", "train 1 then 75", "ok"])
    assert box.once(stand_by=True, stage_command=[str(command)]).returncode == 0
    assert log.read_text().split().count(STAND_BY) == 2


BROKEN = SLEEPER.replace("IMPORTED = ()", "IMPORTED = ('no_such_module',)")
WITH_HELPER = SLEEPER.replace(
    "time.sleep(600)",
    "import subprocess; print(subprocess.Popen(['sleep', '600'], close_fds=False).pid, flush=True)",
)


@pytest.fixture
def given(tmp_path: Path) -> tuple[StandBy, Path, Lock]:
    """One that stands by, the folder of a stage, and a lock that the stage is to hold."""
    folder = tmp_path / "outputs" / "job" / "run" / "prepared"
    folder.mkdir(parents=True)
    one = StandBy((sys.executable, "-c", SLEEPER), ENVIRONMENT)
    return one, folder, Lock.take(tmp_path / "lease", what="the GPU")


def begin(one: StandBy, folder: Path, lock: Lock) -> subprocess.Popen[bytes]:
    """Make it a stage that holds the lock, and wait until it says so in its log."""
    log = StageFolder(folder).log("prepare")
    process = one.become(Stage.PREPARE, folder, log=log, inherited=(lock.descriptor,))
    assert process is not None
    wait_until(lambda: log.exists() and log.read_text() == f"prepare {folder}\n")
    return process


def test_it_holds_the_lease_and_is_found_as_an_orphan(
    given: tuple[StandBy, Path, Lock], tmp_path: Path
) -> None:
    """The lock is held as long as it lives; a later daemon ends it by the folder it stands in."""
    one, folder, lock = given
    process = begin(one, folder, lock)
    lock.release()
    with pytest.raises(BusyError):
        Lock.take(tmp_path / "lease", what="the GPU")
    assert end_orphans(tmp_path / "elsewhere", grace_seconds=5) == []
    assert end_orphans(tmp_path / "outputs", grace_seconds=5) == [str(folder)]
    assert process.wait(5) == -signal.SIGTERM
    Lock.take(tmp_path / "lease", what="the GPU").release()


def test_what_cannot_be_imported_is_the_stages_own_trouble(tmp_path: Path) -> None:
    """It meets the same, and can tell of it."""
    one = StandBy((sys.executable, "-c", BROKEN), ENVIRONMENT)
    lock = Lock.take(tmp_path / "lease", what="the GPU")
    process = begin(one, tmp_path, lock)
    lock.release()
    process.kill()
    process.wait()


def test_a_helper_holds_the_lease_as_long_as_it_lives(tmp_path: Path) -> None:
    """It may have the card open when the stage itself has ended."""
    one = StandBy((sys.executable, "-c", WITH_HELPER), ENVIRONMENT)
    lease, log = tmp_path / "lease", tmp_path / "log"
    lock = Lock.take(lease, what="the GPU")
    process = one.become(Stage.PREPARE, tmp_path, log=log, inherited=(lock.descriptor,))
    lock.release()
    assert process is not None
    assert process.wait(60) == 0
    with pytest.raises(BusyError):
        Lock.take(lease, what="the GPU")
    os.kill(int(log.read_text().split()[-1]), signal.SIGKILL)
    wait_until(lambda: _is_free(lease))


def _is_free(lease: Path) -> bool:
    try:
        Lock.take(lease, what="the GPU").release()
    except BusyError:
        return False
    return True


def test_what_a_dead_daemon_has_handed_over_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next daemon did not see it in its folder, and begins that stage itself."""
    one, log = StandBy((sys.executable, "-c", SLEEPER), ENVIRONMENT), tmp_path / "log"
    monkeypatch.setattr("runner.daemon.stages.stand_by.os.getpid", lambda: 1)
    process = one.become(Stage.PREPARE, tmp_path, log=log)
    assert process is not None
    assert process.wait(60) == 0
    assert log.read_text() == ""


@pytest.mark.parametrize(("box", "not_box"), [("", "fast"), ("fast", ""), ("fast", "other")])
def test_an_orphan_is_its_own_boxs(box: str, not_box: str, tmp_path: Path) -> None:
    """A box that begins anew must not end what another one trains beneath the same outputs."""
    folder = tmp_path / "outputs" / "job" / "run" / "attempts" / "01"
    folder.mkdir(parents=True)
    one = StandBy((sys.executable, "-c", SLEEPER), {**ENVIRONMENT, BOX: box})
    lock = Lock.take(tmp_path / "lease", what="the GPU")
    process = begin(one, folder, lock)
    lock.release()
    assert end_orphans(tmp_path / "outputs", grace_seconds=5, box=not_box) == []
    assert end_orphans(tmp_path / "outputs", grace_seconds=5, box=box) == [str(folder)]
    assert process.wait(5) == -signal.SIGTERM


def test_it_leaves_when_the_daemon_is_gone() -> None:
    """Nobody is left who could tell it what to do."""
    one = StandBy((sys.executable, "-c", SLEEPER), ENVIRONMENT)
    one._ours.close()
    end = time.monotonic() + 20
    while one.is_there and time.monotonic() < end:
        time.sleep(0.05)
    assert not one.is_there


def test_what_it_imports_is_there() -> None:
    """A name that is gone would be passed over in silence, and each start take longer."""
    looks = """
import importlib, sys
from runner.training.stand_by import IMPORTED
for name in IMPORTED:
    importlib.import_module(name)
import torch
print(torch.cuda.is_initialized())
"""
    asked = [sys.executable, "-c", looks]
    said = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert said.stdout.strip() == "False"


def test_an_idle_box_has_two_ready(tmp_path: Path) -> None:
    """One for the rows, which sees no card, and one for what follows: every stage begins in one."""
    box = Box(tmp_path)
    with box.watching(stand_by=True):
        ready = wait_until(lambda: two if len(two := standing_by(box.outputs.root)) == 2 else None)
        seen = [Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in ready]
        assert [b"CUDA_VISIBLE_DEVICES=-1" in environment for environment in seen].count(True) == 1
        box.drop("first")
        wait_until(lambda: [r.state for r in box.records()] == [State.SUCCEEDED])
        (record,) = box.records()
        logs = list(box.outputs.run(record.job, record.run_id).root.rglob("*.log"))
        texts = {path.name: path.read_text() for path in logs if path.name != "run.log"}
        assert "stood by" in texts["prepare.log"]
        assert "stood by" in texts["train.log"]
        wait_until(lambda: len(standing_by(box.outputs.root)) == 2)
    assert not standing_by(box.outputs.root)


def test_one_that_is_killed_as_it_is_handed_a_stage_costs_one_try(tmp_path: Path) -> None:
    """It was stopped, and so has not read its stage yet; the run does not notice more than that."""
    box = Box(tmp_path)
    with box.watching(stand_by=True):
        ready = wait_until(lambda: two if len(two := standing_by(box.outputs.root)) == 2 else None)
        for pid in ready:
            os.kill(pid, signal.SIGSTOP)
        box.drop("first")
        process = wait_until(lambda: next(box.outputs.root.glob("first/*/prepared/process"), None))
        handed = int(wait_until(process.read_text).split()[0])
        assert handed in ready
        os.kill(handed, signal.SIGKILL)
        wait_until(lambda: box.records()[0].tries.get("prepare") == 2)
        for pid in set(ready) - {handed}:  # the other one may be given back meanwhile
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        wait_until(lambda: [r.state for r in box.records()] == [State.SUCCEEDED])
    assert box.record().tries["prepare"] == 2
    assert not standing_by(box.outputs.root)


def test_none_outlives_a_daemon_that_is_killed(tmp_path: Path) -> None:
    """Nobody would ever tell them anything."""
    box = Box(tmp_path)
    with box.watching(stand_by=True) as daemon:
        wait_until(lambda: len(standing_by(box.outputs.root)) == 2)
        daemon.kill()
        wait_until(lambda: not standing_by(box.outputs.root))
