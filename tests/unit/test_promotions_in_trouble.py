"""What is in use, where the disk is full, the history lost, or a request comes twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_runs import record
from typer.testing import CliRunner

from runner.cli import app
from runner.contract.layout import Outputs
from runner.contract.promotions import (
    How,
    NotPromotableError,
    current_run,
    heal,
    promote,
    read_promotions,
    roll_back,
    target_of_rollback,
    withdraw,
)
from runner.contract.record import write_record
from runner.contract.states import State

A, B, C = (f"2026112{n}T020000Z-aaa{n}" for n in (1, 2, 3))


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    """Three runs of a job that have succeeded."""
    found = Outputs(tmp_path)
    for run_id in (A, B, C):
        run = found.run("job", run_id)
        run.adapter.mkdir(parents=True)
        (run.adapter / "adapter_model.safetensors").touch()
        write_record(run.record, record(job="job", run_id=run_id, state=State.SUCCEEDED))
    return found


def put(outputs: Outputs, run_id: str, request: str | None = None) -> bool:
    """Promote a run."""
    return promote(outputs, outputs.run("job", run_id), why="asked", by="me", request=request)


def leads_to(outputs: Outputs) -> str | None:
    """Read the link."""
    link = outputs.current("job")
    return os.readlink(link) if link.is_symlink() else None


_PROMOTE = """
import resource, signal, sys
from pathlib import Path
from runner.contract.layout import Outputs
from runner.contract.promotions import promote
outputs = Outputs(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write itself says so then, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
try:
    promote(outputs, outputs.run("job", sys.argv[2]), why="asked", by="me")
except OSError as error:
    print("refused", error.errno)
"""


@pytest.mark.parametrize("room", [0, 60], ids=["no room", "room for half a line"])
def test_a_history_that_cannot_be_written_moves_nothing(outputs: Outputs, room: int) -> None:
    """The disk takes no more: what was in use stays so, and the next start finds the same."""
    put(outputs, A)
    before = outputs.promotions("job").read_bytes()
    words = [sys.executable, "-c", _PROMOTE, str(outputs.root), B, str(len(before) + room)]
    said = subprocess.run(words, capture_output=True, text=True, check=True)
    assert said.stdout.startswith("refused")
    assert outputs.promotions("job").read_bytes() == before
    assert leads_to(outputs) == current_run(outputs, "job") == A
    heal(outputs, "job")
    assert leads_to(outputs) == A


def test_a_lost_history_is_gone_on_with(outputs: Outputs) -> None:
    """The link still says what was in use: the next line names it, and a rollback goes there."""
    put(outputs, A)
    outputs.promotions("job").unlink()
    assert put(outputs, B)
    (line,) = read_promotions(outputs, "job")
    assert (line.run_id, line.before) == (B, A)
    assert roll_back(outputs, "job", by="me") == A
    assert leads_to(outputs) == A
    with pytest.raises(NotPromotableError, match="no earlier run"):
        roll_back(outputs, "job", by="me")


def test_what_is_taken_out_of_use_is_so_without_a_history_too(outputs: Outputs) -> None:
    """An adapter that is erased is not led to any more."""
    put(outputs, A)
    outputs.promotions("job").unlink()
    withdraw(outputs, "job", why="erased", by="me")
    assert (leads_to(outputs), current_run(outputs, "job")) == (None, None)
    assert [(one.how, one.before) for one in read_promotions(outputs, "job")] == [
        (How.WITHDRAWN, A)
    ]


@pytest.mark.parametrize("last", ["", "../../etc", "current"], ids=["nothing", "path", "name"])
def test_a_request_that_comes_again_finds_what_was_done_since(outputs: Outputs, last: str) -> None:
    """A daemon that was killed after carrying it out goes on, whatever the last line says now."""
    for number, run_id in enumerate((A, B)):
        put(outputs, run_id, request=f"{number}.json")
    roll_back(outputs, "job", by="me", request="2.json")
    if last:
        line = {"time": "2026-11-28T00:00:00Z", "how": "promoted", "run_id": last}
        with outputs.promotions("job").open("a") as file:
            file.write(json.dumps(line | {"why": "", "by": "me"}) + "\n")
    else:
        withdraw(outputs, "job", why="erased", by="me")
    history = outputs.promotions("job").read_bytes()
    assert roll_back(outputs, "job", by="me", request="2.json") is None
    assert not put(outputs, B, request="1.json")
    assert outputs.promotions("job").read_bytes() == history
    assert leads_to(outputs) == (A if last else None)


def test_a_rollback_follows_no_path_out_of_the_job(outputs: Outputs) -> None:
    """A line of somebody's hand that names another job's run is passed over."""
    other = outputs.run("other", A)
    other.adapter.mkdir(parents=True)
    (other.adapter / "adapter_model.safetensors").touch()
    write_record(other.record, record(job="other", run_id=A, state=State.SUCCEEDED))
    put(outputs, A)
    line = {"time": "2026-11-28T00:00:00Z", "how": "promoted", "run_id": f"../other/{A}"}
    with outputs.promotions("job").open("a") as file:
        file.write(json.dumps(line | {"why": "", "by": "me"}) + "\n")
    put(outputs, B)
    assert target_of_rollback(outputs, "job") == A
    assert roll_back(outputs, "job", by="me") == A
    assert leads_to(outputs) == A


def test_after_nothing_was_in_use_a_rollback_finds_what_was_before(outputs: Outputs) -> None:
    """Taken out of use by hand and another put in: one step back is what was in use, no gap."""
    put(outputs, A)
    withdraw(outputs, "job", why="asked", by="me")
    put(outputs, B)
    assert roll_back(outputs, "job", by="me") == A


def test_an_adapter_in_use_that_was_deleted_is_named(outputs: Outputs) -> None:
    """By `runner status` at once, not only at the daemon's next start; nothing else is changed."""
    put(outputs, A)

    def shown() -> str:
        words = ["status", "--outputs-dir", str(outputs.root)]
        return " ".join(CliRunner().invoke(app, words).output.split())

    assert "is gone" not in shown()
    shutil.rmtree(outputs.run("job", A).root)
    assert f"job/current leads to {A}, whose adapter is gone" in shown()
    assert heal(outputs, "job") in shown()
    assert leads_to(outputs) == A
