"""The daemon's figures: idle cost, drop to claim, 1,000 specs at once; or those of an old box.

    .venv/bin/python benchmarks/inbox.py [--polling]   # as on a share, where no event comes
    .venv/bin/python benchmarks/inbox.py --ended 10000 # a box on which so many runs have ended

It starts real daemons on temporary folders. The specs name data that never comes: they are claimed,
recorded and answered, and then wait, so that only the inbox is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

IDLE_SECONDS = 60
DROPS = 200
CROWD = 1000
SPEC = "model: any\ndata: missing.jsonl\n"
TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def daemon(root: Path | None = None, *, polling: bool = False) -> Iterator[tuple[int, Path, Path]]:
    """Run a daemon; give its pid, inbox and outputs folder."""
    with tempfile.TemporaryDirectory() as folder:
        root = root or Path(folder)
        more = ["--polling"] if polling else []
        words = [sys.executable, "-m", "runner.cli", "watch", *more]
        for name in ("jobs", "outputs", "models"):
            (root / name).mkdir(exist_ok=True)
            words += [f"--{name}-dir", str(root / name)]
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until((root / "jobs" / "STATUS.txt").exists, seconds=30)
            yield child.pid, root / "jobs", root / "outputs"
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(60)


def wait_until(true: object, *, seconds: float, every: float = 0.005) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(every)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def ended_children_seconds() -> float:
    """CPU time of the commands that this process has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def peak_mib(pid: int) -> float:
    """Largest resident memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def longest_round(outputs: Path) -> object:
    """Read the longest round of the daemon's loop so far: its seconds, and where most of it went.

    No round is to take over 0.2 s (runner/daemon/rounds.py).
    """
    heartbeat = outputs / ".runner" / "heartbeat.json"
    before = heartbeat.stat().st_mtime_ns
    wait_until(lambda: heartbeat.stat().st_mtime_ns != before, seconds=60)
    found = json.loads(heartbeat.read_bytes())["longest_round"]
    return {name: found[name] for name in ("seconds", "waited_seconds", "step", "step_seconds")}


def idle(*, polling: bool) -> dict[str, object]:
    """Measure a daemon that has nothing to do."""
    with daemon(polling=polling) as (pid, _jobs, outputs):
        time.sleep(5)
        before = cpu_seconds(pid)
        time.sleep(IDLE_SECONDS)
        share = (cpu_seconds(pid) - before) / IDLE_SECONDS * 100
        return {
            "resident_mib": round(resident_mib(pid), 1),
            "cpu_percent": round(share, 3),
            "longest_round": longest_round(outputs),
        }


def drop_to_claim(*, polling: bool) -> dict[str, object]:
    """Measure from the closed file to its claim, settling included, one drop at a time."""
    seconds = []
    with daemon(polling=polling) as (_pid, jobs, outputs):
        due: list[tuple[Path, float]] = []
        for number in range(DROPS):
            path = jobs / f"job-{number:04d}.yaml"
            path.write_text(SPEC)
            due.append((path, time.monotonic()))
            pause = time.monotonic() + random.uniform(0.02, 0.2)
            while time.monotonic() < pause or (number == DROPS - 1 and due):
                now = time.monotonic()
                gone = {path for path, _ in due if not path.exists()}
                seconds += [now - at for path, at in due if path in gone]
                due = [(path, at) for path, at in due if path not in gone]
                time.sleep(0.005)
        longest = longest_round(outputs)
    seconds.sort()
    return {
        "drops": len(seconds),
        "median_seconds": round(seconds[len(seconds) // 2], 3),
        "p99_seconds": round(seconds[int(len(seconds) * 0.99) - 1], 3),
        "worst_seconds": round(seconds[-1], 3),
        "longest_round": longest,
    }


def crowd(*, polling: bool) -> dict[str, object]:
    """Drop many specs at once; each must be recorded and answered once, in order."""
    with daemon(polling=polling) as (_pid, jobs, outputs):
        names = [f"job-{number:04d}" for number in range(CROWD)]
        started = time.monotonic()
        for name in names:
            (jobs / f"{name}.yaml").write_text(SPEC)
        queued = jobs / "queued"

        def answered() -> bool:
            return sum(entry.name.endswith(".txt") for entry in os.scandir(queued)) >= CROWD

        wait_until(answered, seconds=300, every=0.1)
        took = time.monotonic() - started
        records = [json.loads(path.read_text()) for path in outputs.glob("*/*/run.json")]
        records.sort(key=lambda record: record["sequence"])
        return {
            "specs": CROWD,
            "seconds": round(took, 1),
            "records": len(records),
            "each_once": sorted(record["job"] for record in records) == names,
            "in_order": [record["job"] for record in records] == names,
            "longest_round": longest_round(outputs),
        }


def old_box(root: Path, ended: int) -> None:
    """Make a box on which so many runs have ended, one of ten failed, with a queue of one."""
    from runner.contract.record import Attempt, ErrorFacts, RunRecord, write_record
    from runner.contract.states import State

    sys.modules["os"].fsync = lambda _descriptor: None  # type: ignore[attr-defined]  # for speed
    for folder in ("queued", "running", "done", "failed", "rejected", "cancelled"):
        (root / "jobs" / folder).mkdir(parents=True)
    began = datetime(2026, 1, 1, tzinfo=UTC)
    attempt = {
        "number": 1,
        "batch_plan": {"per_device_batch_size": 4, "gradient_accumulation_steps": 4},
        "outcome": "succeeded",
        "first_step": 1,
        "last_step": 100,
    }
    for number in range(ended):
        at = began + timedelta(minutes=20 * number)
        run_id = f"{at:%Y%m%dT%H%M%SZ}-{number % 10000:04d}"
        state = State.FAILED if number % 10 == 0 else State.SUCCEEDED
        record = RunRecord(
            job=f"job-{number % 40:02d}",
            run_id=run_id,
            state=state,
            file_name=f"job-{number % 40:02d}.yaml",
            sequence=number + 1,
            created_at=at,
            started_at=at,
            ended_at=at + timedelta(minutes=10),
            spec_sha256="0" * 64,
            total_steps=100,
            attempts=(
                Attempt.model_validate(
                    {**attempt, "started_at": at, "ended_at": at + timedelta(minutes=9)}
                ),
            ),
            environment={f"library-{n}": "1.2.3" for n in range(20)},
            forecast={"gpu": "a card", "alternatives": [{"seconds": n} for n in range(20)]},
            metrics={f"metric-{n}": n / 7 for n in range(20)},
            error=ErrorFacts(kind="diverged", message="The loss diverged.")
            if state is State.FAILED
            else None,
        )
        run = root / "outputs" / record.job / run_id
        run.mkdir(parents=True)
        write_record(run / "run.json", record)
        name = f"{record.job}--{run_id}.yaml"
        shown = root / "jobs" / state.folder
        (shown / name).write_text(SPEC)
        (shown / f"{name}.txt").write_text("ended\n")
    (root / "jobs" / "waits.yaml").write_text(SPEC)


def after(ended: int) -> dict[str, object]:
    """Measure a box on which so many runs have ended: its starts, its cost, `runner status`."""
    found: dict[str, object] = {"ended": ended}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        old_box(root, ended)
        heartbeat = root / "outputs" / ".runner" / "heartbeat.json"
        for start in ("first_start_seconds", "start_seconds"):
            heartbeat.unlink(missing_ok=True)
            (root / "jobs" / "STATUS.txt").unlink(missing_ok=True)
            began = time.monotonic()
            with daemon(root) as (pid, _jobs, outputs):
                found[start] = round(time.monotonic() - began, 2)
                if start == "first_start_seconds":
                    continue
                time.sleep(10)
                before = cpu_seconds(pid)
                time.sleep(IDLE_SECONDS)
                share = (cpu_seconds(pid) - before) / IDLE_SECONDS * 100
                found["cpu_percent_with_a_job_that_waits"] = round(share, 2)
                found["longest_round"] = longest_round(outputs)
                found["resident_mib"] = round(resident_mib(pid), 1)
                found["peak_mib"] = round(peak_mib(pid), 1)
                words = [sys.executable, "-m", "runner.cli", "status", "--outputs-dir"]
                times, processor = [], []
                for _ in range(9):
                    began, used = time.monotonic(), ended_children_seconds()
                    subprocess.run(
                        [*words, str(root / "outputs")], check=True, stdout=subprocess.DEVNULL
                    )
                    times.append(time.monotonic() - began)
                    processor.append(ended_children_seconds() - used)
                found["status_seconds"] = round(sorted(times)[4], 2)
                found["status_cpu_seconds"] = round(sorted(processor)[4], 2)
    return found


def main() -> None:
    """Measure what is asked for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--polling", action="store_true", help="as on a share, without events")
    parser.add_argument("--ended", type=int, help="a box on which so many runs have ended")
    parser.add_argument("--only", choices=["idle", "drop_to_claim", "crowd"])
    args = parser.parse_args()
    if args.ended is not None:
        print(json.dumps(after(args.ended)))
        return
    for measure in (idle, drop_to_claim, crowd):
        if args.only in (None, measure.__name__):
            print(measure.__name__, json.dumps(measure(polling=args.polling)), flush=True)


if __name__ == "__main__":
    main()
