"""Turns an empty box into the daemon's figures: idle cost, drop to claim, 1,000 specs at once.

    .venv/bin/python benchmarks/inbox.py [--polling]   # as on a share, where no event comes

It starts real daemons on temporary folders. The specs name data that never comes: they are claimed,
recorded and answered, and then wait, so that only the inbox is measured.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IDLE_SECONDS = 60
DROPS = 200
CROWD = 1000
SPEC = "model: any\ndata: missing.jsonl\n"
TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def daemon() -> Iterator[tuple[int, Path, Path]]:
    """Run a daemon; give its pid, inbox and outputs folder."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        words = [sys.executable, "-m", "runner.cli", "watch", *sys.argv[1:]]
        for name in ("jobs", "outputs", "models"):
            (root / name).mkdir()
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


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def idle() -> dict[str, float]:
    """Measure a daemon that has nothing to do."""
    with daemon() as (pid, _jobs, _outputs):
        time.sleep(5)
        before = cpu_seconds(pid)
        time.sleep(IDLE_SECONDS)
        share = (cpu_seconds(pid) - before) / IDLE_SECONDS * 100
        return {"resident_mib": round(resident_mib(pid), 1), "cpu_percent": round(share, 3)}


def drop_to_claim() -> dict[str, float]:
    """Measure from the closed file to its claim, settling included, one drop at a time."""
    seconds = []
    with daemon() as (_pid, jobs, _outputs):
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
    seconds.sort()
    return {
        "drops": len(seconds),
        "median_seconds": round(seconds[len(seconds) // 2], 3),
        "p99_seconds": round(seconds[int(len(seconds) * 0.99) - 1], 3),
        "worst_seconds": round(seconds[-1], 3),
    }


def crowd() -> dict[str, object]:
    """Drop many specs at once; each must be recorded and answered once, in order."""
    with daemon() as (_pid, jobs, outputs):
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
        }


if __name__ == "__main__":
    for measure in (idle, drop_to_claim, crowd):
        print(measure.__name__, json.dumps(measure()), flush=True)
