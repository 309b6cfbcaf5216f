"""The launcher of a stage of several ranks: whatever they do, one end and one result.

The ranks are small programs without the stack; test_ranks.py has those that train.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner.contract.layout import StageFolder
from runner.exit_codes import ExitCode
from runner.training.ranks.place import folder_of

ROOT = Path(__file__).parents[2]
_LAUNCHER = """
import json, os, signal, subprocess, sys
from pathlib import Path
from runner.training.ranks import launch, silence
from runner.training.ranks.place import folder_of
folder, given = Path(sys.argv[1]), json.loads(sys.argv[2])
launch.GRACE_SECONDS, launch.STACK_SECONDS = given["grace"], 0.1
silence.SILENT_SECONDS, silence.TIMES_LONGEST = given["silent"], 0.0
def start_rank(place, stage, folder):
    if place.rank == given["refused"]:
        raise OSError(11, "Resource temporarily unavailable")
    if place.rank == given["asked_at"]:
        os.kill(os.getpid(), signal.SIGTERM)
    own = folder_of(folder, place.rank)
    own.root.mkdir(parents=True, exist_ok=True)
    with own.log(stage).open("ab") as log:
        program = given["first_lines"] + given["ranks"][place.rank]
        command = [sys.executable, "-c", program, str(own.root)]
        return subprocess.Popen(command, stdout=log, stderr=log)
launch.start_rank = start_rank
print("status", launch.launch("train", folder, len(given["ranks"])), flush=True)
"""
_FIRST_LINES = """
import json, os, signal, sys, time
own = sys.argv[1]
open(own + "/pid", "w").write(str(os.getpid()))
def step():
    with open(own + "/metrics.jsonl", "a") as file:
        file.write("{}\\n")
def wait_for_first(name):
    while not os.path.exists(own + "/../../" + name):
        time.sleep(0.05)
def wait_for_firsts_end():
    wait_for_first("pid")
    while os.path.exists("/proc/" + open(own + "/../../pid").read()):
        time.sleep(0.05)
def result(**said):
    open(own + "/result.json", "w").write(json.dumps(said))
def deaf():
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
def leaves(code):
    def leave(*_):
        result(outcome="interrupted", last_step=5, batch_plan=1)
        sys.exit(code)
    signal.signal(signal.SIGTERM, leave)
"""
ENDS = 'step(); result(outcome="succeeded", last_step=8, batch_plan=1); sys.exit(0)'
HANGS = "deaf(); step(); time.sleep(600)"
LEAVES = (
    'leaves(13); result(outcome="interrupted", last_step=5, batch_plan=1); step(); time.sleep(600)'
)


@dataclass
class Launched:
    """What came of it."""

    status: int
    result: dict[str, Any] | None
    log: str


def launched(
    folder: Path,
    *ranks: str,
    grace: float = 1.0,
    silent: float = 60.0,
    tell: signal.Signals | None = None,
    refused: int | None = None,
    asked_at: int | None = None,
) -> Launched:
    """Launch ranks, one program each.

    Args:
        folder: the attempt's.
        ranks: what each does.
        grace: as the launcher has it; so ``silent``.
        silent: likewise.
        tell: a signal for the launcher, once all ranks are there.
        refused: the rank that cannot be started.
        asked_at: the rank at whose start the launcher is asked to stop.
    """
    given = {"ranks": ranks, "grace": grace, "silent": silent, "first_lines": _FIRST_LINES}
    given |= {"refused": refused, "asked_at": asked_at}
    process = subprocess.Popen(
        [sys.executable, "-c", _LAUNCHER, str(folder), json.dumps(given)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if tell is not None:
        for rank, program in enumerate(ranks):
            own = folder_of(folder, rank)
            sign = own.metrics if "step()" in program else own.root / "pid"
            end = time.monotonic() + 60
            while not sign.exists():
                assert time.monotonic() < end
                time.sleep(0.02)
        process.send_signal(tell)
    output, _ = process.communicate(timeout=60)
    status = [line for line in output.splitlines() if line.startswith("status ")]
    for rank in range(len(ranks) if refused is None else refused):
        path = folder_of(folder, rank).root / "pid"
        assert not path.exists() or not Path(f"/proc/{path.read_text()}").exists(), rank
    assert status or refused is not None, output
    result = StageFolder(folder).result
    return Launched(
        status=int(status[0].split()[1]) if status else 1,
        result=json.loads(result.read_text()) if result.exists() else None,
        log=output,
    )


def test_all_end_well(tmp_path: Path) -> None:
    """One status, and the first rank's result as it is."""
    found = launched(tmp_path, ENDS, ENDS)
    assert (found.status, found.result) == (
        ExitCode.OK,
        {"outcome": "succeeded", "last_step": 8, "batch_plan": 1},
    )


@pytest.mark.parametrize(("silent", "grace"), [(3.0, 6.0), (60.0, 1.0)])
def test_a_rank_that_does_not_leave_after_the_end_costs_no_result(
    tmp_path: Path, silent: float, grace: float
) -> None:
    """The first has written all: the other one is ended, and the training counts.

    A driver that does not let go of a card at a process's end would have failed it.
    """
    found = launched(tmp_path, ENDS, HANGS, silent=silent, grace=grace)
    assert (found.status, found.result and found.result["outcome"]) == (ExitCode.OK, "succeeded")
    assert "stands still" not in found.log


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), signal.SIGSEGV)", "sys.exit(10)"])
def test_a_rank_that_fails_after_the_end_costs_no_result(tmp_path: Path, how: str) -> None:
    """A driver may fail as it lets go of a card; that stands in the log."""
    late = f"step(); wait_for_first('result.json'); wait_for_firsts_end(); {how}"
    found = launched(tmp_path, ENDS, late)
    assert (found.status, found.result and found.result["outcome"]) == (ExitCode.OK, "succeeded")
    assert "when all was written" in found.log


def test_the_first_rank_may_write_on_when_the_others_have_left(tmp_path: Path) -> None:
    """A last checkpoint on a slow share takes longer than a grace: nobody waits for it."""
    found = launched(tmp_path, "step(); time.sleep(2.5);" + ENDS, ENDS, grace=0.5)
    assert (found.status, found.result and found.result["outcome"]) == (ExitCode.OK, "succeeded")


def test_a_first_rank_that_hangs_after_the_others_have_left(tmp_path: Path) -> None:
    """It is the one to blame, though the other one's last sign of life is older."""
    found = launched(
        tmp_path, "time.sleep(0.5); " + HANGS, "step(); time.sleep(1); sys.exit(0)", silent=4.0
    )
    assert found.status == ExitCode.UNEXPECTED
    assert found.result is not None
    assert "card 1 stood still" in found.result["error"]["message"]


def test_a_rank_that_fails_ends_one_that_hears_nothing(tmp_path: Path) -> None:
    """After a grace it is killed; what is said is why the other one failed."""
    why = "result(error={'kind': 'x', 'message': 'y', 'advice': 'z'}); sys.exit(1)"
    found = launched(tmp_path, HANGS, why)
    assert found.status == ExitCode.UNEXPECTED
    assert found.result == {"error": {"kind": "x", "message": "y", "advice": "z"}}


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', "\\x00" * 100])
def test_a_result_that_is_half_written_is_none(tmp_path: Path, content: str) -> None:
    """What the first rank saved is kept; the failed one's reason is not known."""
    writes = "wait_for_first('metrics.jsonl');"
    writes += f"open(own + '/result.json', 'w').write({content!r}); sys.exit(1)"
    found = launched(tmp_path, LEAVES, writes)
    assert found.status == ExitCode.UNEXPECTED
    assert found.result is not None
    assert (found.result["outcome"], found.result["error"]) == ("failed", None)
    assert found.result["last_step"] == 5


def test_a_rank_that_fills_its_log_does_not_fill_the_memory(tmp_path: Path) -> None:
    """The end of it is shown, and no more is read."""
    program = "import resource; print('x' * 100 + chr(10) * 1, flush=True);"
    program += "os.truncate(own + '/train.log', 8 << 30); os.lseek(1, 0, 2);"
    program += "print('\\nthe reason', flush=True); sys.exit(1)"
    found = launched(tmp_path, LEAVES, program)
    assert found.status == ExitCode.UNEXPECTED
    assert "the reason" in found.log
    assert len(found.log) < 200_000


def test_a_stop_that_one_rank_is_deaf_to(tmp_path: Path) -> None:
    """The first saves and leaves; the other one is killed when the grace is over."""
    found = launched(tmp_path, LEAVES, HANGS, tell=signal.SIGTERM)
    assert (found.status, found.result and found.result["last_step"]) == (ExitCode.INTERRUPTED, 5)


def test_a_stop_before_any_rank_listens(tmp_path: Path) -> None:
    """The signal ends them, and so the stage: nothing was trained."""
    found = launched(tmp_path, "time.sleep(600)", "time.sleep(600)", tell=signal.SIGTERM)
    assert (found.status, found.result) == (-signal.SIGTERM, None)


def test_a_rank_that_leaves_early_as_if_all_were_done(tmp_path: Path) -> None:
    """It made fewer passes than the others, which lose it: the attempt is no success."""
    found = launched(
        tmp_path, "time.sleep(0.5); " + LEAVES.replace("time.sleep(600)", "sys.exit(13)"), ENDS
    )
    assert found.status == ExitCode.INTERRUPTED


def test_what_an_earlier_try_left_of_its_ranks_is_gone(tmp_path: Path) -> None:
    """Their signs of life and reasons would be taken for the new ones'."""
    old = folder_of(tmp_path, 3)
    old.root.mkdir(parents=True)
    old.metrics.write_text("{}")
    assert launched(tmp_path, ENDS, ENDS).status == ExitCode.OK
    assert not old.root.exists()


def test_a_rank_that_cannot_be_started_leaves_no_other_one_behind(tmp_path: Path) -> None:
    """The machine has no process to spare: those that were started end with the launcher."""
    found = launched(tmp_path, HANGS, ENDS, refused=1)
    assert "Resource temporarily unavailable" in found.log


def test_why_a_rank_failed_outweighs_the_signal_that_ended_another(tmp_path: Path) -> None:
    """The launcher's own signal met that one before it listened."""
    why = "result(error={'kind': 'x', 'message': 'y', 'advice': 'z'}); sys.exit(1)"
    found = launched(tmp_path, "time.sleep(600)", why)
    assert (found.status, found.result and found.result["error"]["kind"]) == (1, "x")


def test_a_first_rank_that_was_ended_makes_no_success_of_anothers_end(tmp_path: Path) -> None:
    """What the run keeps was never written."""
    found = launched(
        tmp_path,
        "time.sleep(600)",
        "leaves(0); step(); time.sleep(600)",
        tell=signal.SIGTERM,
    )
    assert found.status == -signal.SIGKILL


def test_a_stop_that_comes_while_ranks_are_started_reaches_all(tmp_path: Path) -> None:
    """Those that came after the signal hear of it as well."""
    found = launched(tmp_path, LEAVES, LEAVES, asked_at=1)
    assert found.status in (-signal.SIGTERM, ExitCode.INTERRUPTED)


def test_of_a_rank_that_a_signal_ended_nothing_else_is_said(tmp_path: Path) -> None:
    """The first one's own reason, that it lost the other, would be read as the cause."""
    lost = "result(error={'kind': 'rank_lost', 'message': 'y', 'advice': 'z'}); time.sleep(1)"
    killed = "step(); os.kill(os.getpid(), signal.SIGKILL)"
    found = launched(
        tmp_path, f"signal.signal(signal.SIGTERM, lambda *_: 0); {lost}; sys.exit(13)", killed
    )
    assert (found.status, found.result) == (-signal.SIGKILL, None)
