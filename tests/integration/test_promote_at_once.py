"""Promote and roll back from several processes at once, without a daemon and beside one."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from daemon_box import REPOSITORY, Box, wait_until

from runner.clock import now
from runner.contract.layout import Outputs
from runner.contract.promotions import Change, How, current_run, read_promotions
from runner.contract.record import RunRecord, write_record
from runner.contract.requests import leave_request
from runner.contract.states import State

_AT_ONCE = 6
_ROUNDS = 3
_COMMANDS = """
import sys
from typer.testing import CliRunner
from runner.cli import app
print("ready", flush=True)
for line in sys.stdin:
    found = CliRunner().invoke(app, line.split())
    print(found.exit_code, " ".join(found.output.split()) or str(found.exception), flush=True)
"""
"""A process that carries out a command for each line: all start at the same moment so."""


class Shell:
    """A process at the same outputs folder as others."""

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs
        self.process = subprocess.Popen(
            [sys.executable, "-c", _COMMANDS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            text=True,
        )
        self.hear()

    def say(self, words: str) -> None:
        """Start a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{words} --outputs-dir {self.outputs.root}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """Wait for its end; give its exit code and what it printed."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        """Let it go."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Reader(threading.Thread):
    """Whoever serves `current`: follows it all the time, and notes where no whole run was."""

    def __init__(self, link: Path) -> None:
        super().__init__(daemon=True)
        self.link, self.broken, self.looks, self.over = link, 0, 0, False

    def run(self) -> None:
        """Look until it is over."""
        while not self.over:
            self.looks += 1
            self.broken += not (self.link / "adapter" / "adapter_model.safetensors").exists()
            time.sleep(0.001)


def _made(outputs: Outputs, job: str, number: int) -> str:
    run = outputs.run(job, f"20261121T{number:06d}Z-aaaa")
    run.adapter.mkdir(parents=True)
    (run.adapter / "adapter_model.safetensors").touch()
    fields = {"job": job, "run_id": run.run_id, "state": State.SUCCEEDED, "created_at": now()}
    write_record(
        run.record, RunRecord.model_validate({**fields, "file_name": "job.yaml", "spec_sha256": ""})
    )
    return run.run_id


def _in_use_after(changes: list[Change]) -> str:
    """Read a history as its reference: each line follows from the one before, by plain rules."""
    in_use: list[str] = []
    for change in changes:
        assert change.before == (in_use[-1] if in_use else None)
        if change.how is How.PROMOTED:
            assert change.run_id != change.before
            in_use = [one for one in in_use if one != change.run_id] + [change.run_id]
        else:
            in_use.pop()
            assert change.run_id == in_use[-1]
    return in_use[-1]


def _check(outputs: Outputs, job: str, lines: int | None = None) -> None:
    """Whole lines alone; the link leads where the last one says."""
    text = outputs.promotions(job).read_text()
    changes = read_promotions(outputs, job)
    assert text.endswith("\n")
    assert len(changes) == len(text.splitlines())
    assert lines is None or len(changes) == lines
    assert os.readlink(outputs.current(job)) == current_run(outputs, job) == _in_use_after(changes)
    left = {path.name for path in (outputs.root / job).iterdir()}
    assert not {name for name in left if name.startswith(".")}


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """An empty box."""
    return Box(tmp_path)


def test_commands_at_once_without_a_daemon_are_all_carried_out(box: Box) -> None:
    """Nobody else would come to a request: each waits for its turn and does it."""
    outputs = box.outputs
    runs = [_made(outputs, "job", number) for number in range(_AT_ONCE * _ROUNDS + 1)]
    shells = [Shell(outputs) for _ in range(_AT_ONCE)]
    reader = Reader(outputs.current("job"))
    try:
        shells[0].say(f"promote job/{runs[0]}")
        assert shells[0].hear().startswith("0 ")
        reader.start()
        done, dice = 1, random.Random(7)
        for number in range(_ROUNDS):
            mine = runs[1 + number * _AT_ONCE :][:_AT_ONCE]
            words = [f"promote job/{run_id}" for run_id in mine]
            words[1], words[3] = "rollback job", "rollback job"
            dice.shuffle(words)
            for shell, word in zip(shells, words, strict=True):
                shell.say(word)
            said = [shell.hear() for shell in shells]
            refused = [one for one in said if "no earlier run" in one]
            assert all(
                one.startswith("0 outputs/job/current leads to")
                for one in said
                if one not in refused
            ), said
            done += _AT_ONCE - len(refused)
            _check(outputs, "job", done)
            told = {
                one.split("leads to ")[1].split()[0].rstrip(".")
                for one in said
                if one not in refused
            }
            assert told == {
                one.run_id for one in read_promotions(outputs, "job")[-(_AT_ONCE - len(refused)) :]
            }
            assert not list(outputs.requests.glob("*")) if outputs.requests.exists() else True
    finally:
        reader.over = True
        for shell in shells:
            shell.end()
    reader.join()
    assert reader.looks > 20
    assert reader.broken == 0


def test_commands_beside_a_daemon_that_promotes_by_itself(box: Box) -> None:
    """The gate's promotions, asked ones and rollbacks mix as they come; none is lost or torn."""
    outputs = box.outputs
    (box.jobs / "job.jsonl").write_text("{}")
    spec = "model: m\ndata: job.jsonl\npromote: {when: always}\n"
    by_hand = [_made(outputs, "job", number) for number in range(8)]
    with box.watching():
        (box.jobs / "job.yaml").write_text(spec)
        wait_until(lambda: current_run(outputs, "job"))
        wait_until(lambda: os.path.lexists(outputs.current("job")))
        reader = Reader(outputs.current("job"))
        reader.start()
        shells = [Shell(outputs) for _ in range(2)]
        try:
            for number in range(4):
                (box.jobs / "job.yaml").write_text(spec)
                shells[0].say(f"promote job/{by_hand[number]}")
                shells[1].say(
                    "rollback job" if number % 2 else f"promote job/{by_hand[4 + number]}"
                )
                said = [shell.hear() for shell in shells]
                assert all(one.startswith("0 ") or "no earlier" in one for one in said), said
                wait_until(lambda: not list(outputs.requests.iterdir()))
                _check(outputs, "job")
                count = number + 2
                wait_until(
                    lambda count=count: (
                        sum(one.by == "the gate" for one in read_promotions(outputs, "job"))
                        == count
                    )
                )
        finally:
            reader.over = True
            for shell in shells:
                shell.end()
    reader.join()
    assert reader.broken == 0
    _check(outputs, "job")
    changes = read_promotions(outputs, "job")
    assert sum(one.by == "the gate" for one in changes) == 5
    assert {one.run_id for one in changes} >= set(by_hand[:4])


def test_a_broken_history_holds_up_no_other_job(box: Box) -> None:
    """Its requests are answered in the log and taken away; the next one is carried out."""
    outputs = box.outputs
    for job in ("broken", "well"):
        for number in range(2):
            _made(outputs, job, number)
    run_ids = [f"20261121T{number:06d}Z-aaaa" for number in range(2)]
    outputs.promotions("broken").mkdir()
    with box.watching():
        wait_until(
            lambda: outputs.daemon_log.exists() and "watching" in outputs.daemon_log.read_text()
        )
        leave_request(outputs, "promote", job="broken", run_id=run_ids[0], by="me")
        leave_request(outputs, "rollback", job="broken", by="me")
        leave_request(outputs, "promote", job="well", run_id=run_ids[0], by="me")
        leave_request(outputs, "promote", job="well", run_id=run_ids[1], by="me")
        leave_request(outputs, "rollback", job="well", by="me")
        wait_until(lambda: not list(outputs.requests.iterdir()))
    assert [one.run_id for one in read_promotions(outputs, "well")] == [*run_ids, run_ids[0]]
    assert os.readlink(outputs.current("well")) == run_ids[0]
    said = outputs.daemon_log.read_text()
    assert said.count("what is in use cannot be read or written (Not a regular file)") == 2
    assert outputs.promotions("broken").is_dir()
