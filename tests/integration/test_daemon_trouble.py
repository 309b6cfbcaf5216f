"""Turns kills, deletions, bad input and rivals into what a user may still rely on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from daemon_box import REPOSITORY, Box, wait_until

from runner.contract.layout import claimed_name
from runner.contract.requests import leave_request
from runner.contract.states import State


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """An empty box."""
    return Box(tmp_path)


def _pid_of(box: Box, pattern: str) -> int:
    (path,) = wait_until(lambda: list(box.outputs.root.glob(f"*/2*/{pattern}/process")))
    return int(path.read_text().split()[0])


def _hangs(box: Box, pattern: str) -> bool:
    return bool(list(box.outputs.root.glob(f"*/*/{pattern}/hanging")))


def test_bad_data_is_rejected_with_the_reason(box: Box) -> None:
    """What prepare finds wrong is said beside the spec, and is not tried again."""
    box.drop("contracts", prepare=["10"])
    assert box.once().returncode == 1
    assert box.record().state is State.REJECTED
    assert "the stand-in ended with 10" in box.answer("rejected")
    (run,) = box.outputs.runs()
    assert (run.root / "tries-prepare").read_text() == "1"


def test_an_invalid_spec_is_rejected_and_the_next_one_runs(box: Box) -> None:
    """A spec that cannot be read is answered with every problem; the daemon goes on."""
    (box.jobs / "broken.yaml").write_text("model: m\ndata: x.jsonl\nepoch: 3\nlearningrate: 1\n")
    box.drop("good")
    assert box.once().returncode == 1
    answer = box.answer("rejected")
    assert "epoch" in answer
    assert "learningrate" in answer
    assert box.record().state is State.SUCCEEDED


def test_a_spec_named_like_a_text_file_is_told_how_to_be_named(box: Box) -> None:
    """x.yaml.txt is answered, not ignored."""
    (box.jobs / "contracts.yaml.txt").write_text("model: m\ndata: x.jsonl\n")
    assert box.once().returncode == 1
    answers = [path.read_text() for path in (box.jobs / "rejected").iterdir()]
    assert any("rename it to contracts.yaml" in answer for answer in answers)


def test_what_editors_leave_and_other_json_is_left_alone(box: Box) -> None:
    """Temporary files and a JSON file that is no spec stay where they are."""
    names = [".contracts.yaml.swp", "~$contracts.yaml", "x.yaml.part", "data.json"]
    for name in names:
        (box.jobs / name).write_text("[1, 2]")
    assert box.once().returncode == 0
    assert all((box.jobs / name).exists() for name in names)


def test_missing_data_rejects_at_once_when_working_off(box: Box) -> None:
    """With --once nobody waits for a file that is not there."""
    box.drop_spec("contracts")
    assert box.once().returncode == 1
    assert box.record().state is State.REJECTED
    assert "contracts.jsonl" in box.answer("rejected")


def test_a_job_waits_for_its_data_and_says_so(box: Box) -> None:
    """A spec that arrives before its data waits, and then runs."""
    box.drop_spec("late")
    with box.watching():
        wait_until(lambda: box.records() and box.record().waiting)
        wait_until(
            lambda: "Waiting for jobs/late.jsonl. If it has not arrived" in box.answer("queued")
        )
        (box.jobs / "late.jsonl").write_text("{}")
        wait_until(lambda: box.in_state(State.SUCCEEDED))


def test_a_killed_daemon_goes_on_where_it_was(box: Box) -> None:
    """Kill -9 of the daemon costs the steps since the last checkpoint, never the run."""
    box.drop("contracts", train=["train 3 then hang", "ok"])
    with box.watching() as daemon:
        wait_until(lambda: _hangs(box, "attempts/01-*"))
        stage = _pid_of(box, "attempts/01-*")
        daemon.kill()
        daemon.wait()
    done = box.once()
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not Path(f"/proc/{stage}").exists())  # whoever inherited it buries it
    first, second = box.record().attempts
    assert (first.outcome, first.first_step, first.last_step) == ("killed", 1, 3)
    assert (second.first_step, second.last_step) == (4, 8)


def test_a_kill_between_the_claim_and_its_record_loses_nothing(box: Box) -> None:
    """A claimed file without a record is adopted at the next start, under its own run id."""
    box.drop("contracts")
    (box.jobs / "queued").mkdir()
    name = claimed_name("contracts.yaml", "20261123T221005Z-k3f9")
    (box.jobs / "contracts.yaml").rename(box.jobs / "queued" / name)
    assert box.once().returncode == 0
    assert box.record().run_id == "20261123T221005Z-k3f9"
    assert box.record().job == "contracts"
    assert (box.jobs / "done" / name).exists()


def test_a_misplaced_spec_is_brought_to_where_its_record_says(box: Box) -> None:
    """The record is the truth: a kill between it and the rename is healed at the next start."""
    box.drop("contracts")
    box.once()
    (spec,) = (box.jobs / "done").glob("*.yaml")
    spec.rename(box.jobs / "running" / spec.name)
    assert box.once().returncode == 0
    assert spec.exists()
    assert len(box.records()) == 1


def test_a_stopped_daemon_leaves_the_run_to_the_next_one(box: Box) -> None:
    """SIGTERM asks the child, waits for its checkpoint, and the next start goes on with it."""
    box.drop("contracts", train=["train 5 then hang", "ok"])
    with box.watching() as daemon:
        wait_until(lambda: _hangs(box, "attempts/01-*"))
        daemon.terminate()
        assert daemon.wait(timeout=20) == 0
    assert box.record().state is State.INTERRUPTED
    assert box.record().attempts[0].last_step == 5
    assert box.once().returncode == 0
    assert box.record().attempts[1].first_step == 6


def test_deleting_a_spec_cancels_its_run(box: Box) -> None:
    """Whoever has only the share cancels by deleting; the child goes, and the answer says so."""
    box.drop("contracts", train=["hang"])
    with box.watching():
        wait_until(lambda: _hangs(box, "attempts/01-*"))
        stage = _pid_of(box, "attempts/01-*")
        (spec,) = wait_until(lambda: list((box.jobs / "running").glob("*.yaml")))
        spec.unlink()
        wait_until(lambda: box.in_state(State.CANCELLED))
        wait_until(lambda: list((box.jobs / "cancelled").glob("*.txt")))
    assert not Path(f"/proc/{stage}").exists()
    assert "deleted" in box.answer("cancelled")


def test_an_inbox_that_goes_away_cancels_nothing(box: Box) -> None:
    """A share that is unmounted looks empty; without its marker that means nothing."""
    box.drop("contracts", train=["hang"])
    with box.watching(rescan_seconds=0.2):
        wait_until(lambda: _hangs(box, "attempts/01-*"))
        away = box.root / "away"
        box.jobs.rename(away)
        box.jobs.mkdir()
        wait_until(lambda: "unavailable" in box.outputs.daemon_log.read_text())
        time.sleep(2.0)  # longer than two scans: the promise is that nothing happens
        assert box.record().state is State.TRAINING
        box.jobs.rmdir()
        away.rename(box.jobs)
        wait_until(lambda: "there again" in box.outputs.daemon_log.read_text())
        assert box.record().state is State.TRAINING


def test_outputs_that_go_away_are_no_inbox_that_does(box: Box) -> None:
    """It is said of the outputs folder, once, and nothing is made in its place."""
    box.drop("contracts", train=["train 5 then hang", "ok"])
    with box.watching(rescan_seconds=0.2) as daemon:
        wait_until(lambda: _hangs(box, "attempts/01-*"))
        away = box.root / "away"
        box.outputs.root.rename(away)
        said = "the outputs folder cannot be written (No such file or directory)"
        wait_until(lambda: said in (box.root / "daemon.out").read_text())
        time.sleep(2.0)  # ten scans: the promise is that nothing happens
        assert not box.outputs.root.exists()
        assert daemon.poll() is None
        away.rename(box.outputs.root)
        wait_until(lambda: "can be written again" in (box.root / "daemon.out").read_text())
        box.drop("other")
        wait_until(lambda: len(box.records()) == 2)
    told = (box.root / "daemon.out").read_text()
    assert "the inbox is unavailable" not in told
    assert told.count(said) == 1
    assert box.once().returncode == 0
    assert {record.state for record in box.records()} == {State.SUCCEEDED}


def test_a_start_without_the_share_cancels_nothing(box: Box) -> None:
    """A daemon that starts before the share is mounted must not take its runs for deleted."""
    box.drop("contracts", train=["train 5 then hang", "ok"])
    with box.watching() as daemon:
        wait_until(lambda: _hangs(box, "attempts/01-*"))
        daemon.kill()
        daemon.wait()
    away = box.root / "away"
    box.jobs.rename(away)
    box.jobs.mkdir()
    with box.watching(rescan_seconds=0.2):
        wait_until(lambda: "unavailable" in box.outputs.daemon_log.read_text())
        assert not list(box.jobs.iterdir())
        box.jobs.rmdir()
        away.rename(box.jobs)
        wait_until(lambda: box.in_state(State.SUCCEEDED))


def test_a_command_cancels_by_request(box: Box) -> None:
    """Commands leave a request; the daemon carries it out and takes it away."""
    box.drop("contracts", train=["hang"])
    with box.watching(rescan_seconds=0.2):
        wait_until(lambda: _hangs(box, "attempts/01-*"))
        request = leave_request(box.outputs, "cancel", run_id=box.record().run_id)
        wait_until(lambda: box.in_state(State.CANCELLED) and not request.exists())


def test_a_second_daemon_refuses_and_says_who_is_there(box: Box) -> None:
    """Two daemons on one inbox would run everything twice: the second names the first."""
    with box.watching() as daemon:
        wait_until(lambda: (box.jobs / ".runner-inbox").exists() and box.outputs.lock.read_text())
        second = box.once()
        assert second.returncode == 3
        assert f"process {daemon.pid}" in second.stderr
        other = box.root / "other-outputs"
        third = box.once(outputs_dir=str(other))
        assert third.returncode == 3
        assert "inbox" in third.stderr


def test_the_same_file_dropped_again_is_a_new_run(box: Box) -> None:
    """A job may run many times; each run has a folder of its own."""
    box.drop("contracts")
    box.once()
    box.drop("contracts")
    assert box.once().returncode == 0
    first, second = box.records()
    assert first.run_id != second.run_id
    assert first.job == second.job == "contracts"
    assert len(list((box.jobs / "done").glob("*.yaml"))) == 2


def test_a_finished_spec_dragged_back_runs_again_under_its_own_name(box: Box) -> None:
    """Dragging a spec from done/ into the inbox repeats the job, not "contracts--2026…"."""
    box.drop("contracts")
    box.once()
    (spec,) = (box.jobs / "done").glob("*.yaml")
    spec.rename(box.jobs / spec.name)
    assert box.once().returncode == 0
    assert [record.job for record in box.records()] == ["contracts", "contracts"]


def test_priority_goes_first(box: Box) -> None:
    """A higher priority runs earlier; within one, first come first served."""
    for name, extra in (("a", ""), ("b", ""), ("c", "priority: 5\n")):
        box.drop(name)
        box.drop_spec(name, extra)
        os.utime(box.jobs / f"{name}.yaml", (1, ord(name)))
    # The data of all is ready at once: a run whose own has not settled yet holds up nobody.
    assert box.once(settle_seconds=0.0).returncode == 0
    started = sorted(box.records(), key=lambda record: record.attempts[0].started_at)
    assert [record.job for record in started] == ["c", "a", "b"]


def test_three_attempts_without_a_new_step_end_the_run(box: Box) -> None:
    """A run that a signal kills again and again ends failed instead of for ever."""
    box.drop("contracts", train=["train 2 then -9", "-9", "-9", "-9"])
    assert box.once().returncode == 1
    record = box.record()
    assert record.state is State.FAILED
    assert [attempt.outcome for attempt in record.attempts] == ["killed"] * 4
    assert [attempt.last_step for attempt in record.attempts] == [2, 2, 2, 2]
    assert "SIGKILL" in box.answer("failed")


def test_no_word_of_the_data_is_in_logs_records_or_answers(box: Box) -> None:
    """The daemon reads no data: a canary in it appears in nothing that the daemon writes."""
    box.drop("contracts", note=["CANARY-5317"])
    box.once()
    files = [
        *box.outputs.root.rglob("*.jsonl"),
        *box.outputs.root.rglob("run.json"),
        *box.jobs.rglob("*.txt"),
    ]
    assert len(files) > 3
    assert not [path for path in files if "CANARY-5317" in path.read_text()]


def test_log_lines_are_json(box: Box) -> None:
    """Each line of log.jsonl is an object with a time and an event."""
    box.drop("contracts")
    box.once()
    (run,) = box.outputs.runs()
    events = [json.loads(line) for line in run.log.read_text().splitlines()]
    assert {"time", "level", "event", "run"} <= events[0].keys()
    assert events[-1]["event"] == "contracts: succeeded"


def test_importing_the_daemon_imports_no_torch() -> None:
    """The daemon's modules alone bring in neither torch nor what needs it."""
    code = (
        "import sys, runner.daemon.run_daemon;"
        "print(sorted({'torch','transformers','datasets','numpy'} & set(sys.modules)))"
    )
    python = [sys.executable, "-c", code]
    done = subprocess.run(python, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_stubborn_child_is_killed_with_its_group_after_its_grace(box: Box) -> None:
    """A child that does not leave when asked is killed when its time is over."""
    box.drop("contracts", train=["stubborn"])
    with box.watching(grace_seconds=0.5) as daemon:
        wait_until(lambda: _hangs(box, "attempts/01-*"))
        stage = _pid_of(box, "attempts/01-*")
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(timeout=20)
    assert not Path(f"/proc/{stage}").exists()
    assert box.record().attempts[0].exit_code == -signal.SIGKILL
