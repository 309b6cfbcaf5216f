"""Turns a reader and a number into that many hostile inputs read, or into the one that broke it.

Command: `python fuzz_reader.py {spec|data|record} COUNT SEED FOLDER`. A process of its own, so that
its memory can be limited. Every input must give an answer that a person can act on, within a second
of this process's time and in the memory allowed. The last line is a JSON summary.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fuzz_inputs
from hypothesis import HealthCheck, Phase, given, seed, settings

from runner.contract.batch import BatchPlan
from runner.contract.record import Attempt, RunRecord, read_record, write_record
from runner.contract.states import State
from runner.daemon.inbox import answer
from runner.daemon.inbox.status_txt import status_txt
from runner.errors import DamagedError, SpecError
from runner.spec.read_spec import read_spec
from runner.spec.spec_text import is_json_spec
from runner.training.data.findings import Findings
from runner.training.data.formats import to_conversations
from runner.training.data.rows import read_rows

MEMORY_BYTES = 256 * 1024**2
# Of this process's own time. The slowest of a thousand inputs took 0.6 s, and 1.02 once on a busy
# host, where the same work costs up to twice as much; a reader that is quadratic needs minutes.
LONGEST_SECONDS = 5.0
_HANG_SECONDS = 30  # by the clock
_ROUND = 500  # inputs


def spec(given_input: tuple[bytes, str], folder: Path) -> str:
    """Read a spec: it is one, or every problem is told."""
    content, name = given_input
    is_json_spec(content)
    try:
        read = read_spec(content, file_name=name)
    except SpecError as error:
        assert error.problems
        assert all(problem.message for problem in error.problems)
        assert answer.rejection(name, error.message)
        return "refused"
    assert read.model
    assert read.data
    assert read.name
    return "taken"


def data(given_input: tuple[bytes, str], folder: Path) -> str:
    """Read a data file: every row becomes a conversation, or a problem is told."""
    content, name = given_input
    path, findings = folder / "input", Findings()
    path.write_bytes(content)
    rows = read_rows(path, shown_as=name, findings=findings)
    found = to_conversations(rows, data_format="auto", system_prompt=None, findings=findings)
    assert found or findings.problems
    assert len(found) <= len(rows)
    assert all(str(problem) for problem in findings.problems)
    for conversation in found:  # what comes through can be rendered and saved
        json.dumps([*conversation.messages, conversation.text], ensure_ascii=False).encode()
    return "refused" if findings.problems else "taken"


def record(content: bytes, folder: Path) -> str:
    """Read a record: it is damaged, or it can be shown, changed and written again."""
    path = folder / "run.json"
    path.write_bytes(content)
    try:
        read = read_record(path)
    except DamagedError as error:
        assert error.message
        assert path.read_bytes() == content
        return "refused"
    answer.answer(read, place=1)
    status_txt(needs_person=[], live=[read], ended=[read])
    assert read.state.is_final or read.next_stage is not None
    write_record(path, read.but(state=State.INTERRUPTED))
    assert read_record(path).run_id == read.run_id
    return "taken"


def good_record() -> dict[str, Any]:
    """Give a record with every field filled in."""
    when = datetime(2026, 11, 24, 20, 0, tzinfo=UTC)
    plan = BatchPlan(per_device_batch_size=4, gradient_accumulation_steps=4)
    attempt = Attempt(number=1, batch_plan=plan, started_at=when, outcome="succeeded", last_step=3)
    return RunRecord(
        job="contracts",
        run_id="20261123T221005Z-k3f9",
        state=State.QUEUED,
        file_name="contracts.yaml",
        created_at=when,
        started_at=when,
        ended_at=when,
        spec_sha256="0" * 64,
        batch_plan=plan,
        attempts=(attempt,),
        metrics={"eval_loss_before": 3.0, "eval_loss_after": 1.5, "best_checkpoint": "step-3"},
        shortfalls=("a row was left out",),
    ).model_dump(mode="json")


READERS: dict[str, Callable[[Any, Path], str]] = {"spec": spec, "data": data, "record": record}


def _memory_kib(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def main(name: str, count: int, seed_number: int, folder: Path) -> None:
    """Read so many inputs."""
    strategies = {
        "spec": fuzz_inputs.specs(),
        "data": fuzz_inputs.data(),
        "record": fuzz_inputs.records(good_record()),
    }
    reader = READERS[name]
    seen: dict[str, int] = {"taken": 0, "refused": 0}
    slowest = 0.0
    if name == "data":
        which = list(itertools.product(fuzz_inputs.BOMB_MEGABYTES, fuzz_inputs.BOMB_CODECS))
        # pyarrow's own allocator sets a gigabyte aside at once, used or not.
        os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            made = pool.starmap(fuzz_inputs.bomb, which)
        fuzz_inputs.BOMBS.update(zip(which, made, strict=True))

    # What libraries have set aside already they may not use; what they do use is looked at below.
    limit = _memory_kib("VmData") * 1024 + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    def read_one(one: Any) -> None:
        nonlocal slowest
        signal.alarm(_HANG_SECONDS)
        began = time.process_time()
        how = reader(one, folder)
        took = time.process_time() - began
        signal.alarm(0)
        slowest = max(slowest, took)
        seen[how] += 1
        assert took < LONGEST_SECONDS, f"it took {took:.2f} s"

    rounds = itertools.count(seed_number)
    while (left := count - sum(seen.values())) > 0:
        # In rounds: hypothesis remembers a round's inputs, in the same memory that is limited here.
        hypothesised = settings(
            max_examples=min(_ROUND, left),
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        seed(next(rounds))(hypothesised(given(strategies[name])(read_one)))()
    peak = _memory_kib("VmHWM")
    print(json.dumps({**seen, "slowest_seconds": round(slowest, 3), "peak_mib": peak // 1024}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
