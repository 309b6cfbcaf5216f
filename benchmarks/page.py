"""The page's figures: median and p99 of its main pages with few and with many runs; memory.

    .venv/bin/python benchmarks/page.py                # 10 and 10,000 runs
    .venv/bin/python benchmarks/page.py --followers 50 # and so many that follow a run
    .venv/bin/python benchmarks/page.py --paint        # and first paint in Chromium

What followers cost a training beside them: benchmarks/followers.py.

It starts the real server on a Unix socket over folders of made runs, whose records, metrics and
reports are those of a real run, and asks for each page again and again, one after the other.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "browser"))

import chromium
from made_runs import make_run, record, step, write_lines
from office_page import office

from runner.contract.ended import note_ended
from runner.contract.layout import Outputs, RunFolder, new_run_id
from runner.contract.record import write_record
from runner.contract.states import State
from runner.language.speaker import Speaker
from runner.report.write import write_report

ASKED = 200  # times for each page
PAINTED = 10
STEPS = 2000  # of the run that trains
JOBS = 20


def make_box(root: Path, runs: int) -> dict[str, str]:
    """Make a box with so many ended runs and one that trains; give the ways to its main pages."""
    outputs, chance = Outputs(root / "outputs"), random.Random(1)
    outputs.requests.mkdir(parents=True)
    for name in ("jobs", "models"):
        (root / name).mkdir()
    began = datetime(2026, 1, 1, tzinfo=UTC)
    first = make_run(outputs.root, record(job="job-0", run_id=new_run_id(began)))
    write_report(outputs, first, Speaker(), share_name="", inbox=None)
    note_ended(outputs, first, record(job="job-0", run_id=first.run_id))
    for number in range(1, runs):
        at = began + timedelta(minutes=number)
        made = record(
            job=f"job-{chance.randrange(JOBS)}",
            run_id=new_run_id(at),
            created_at=at,
            ended_at=at + timedelta(minutes=1),
        )
        run = outputs.run(made.job, made.run_id)
        run.root.mkdir(parents=True)
        write_record(run.record, made)
        note_ended(outputs, run, made)
    going = make_run(
        outputs.root,
        record(
            job="going",
            run_id=new_run_id(),
            state=State.TRAINING,
            ended_at=None,
            verdict=None,
            total_steps=2 * STEPS,
        ),
    )
    shutil.rmtree(going.evaluation)
    write_lines(going, 2, [step(number) for number in range(4, STEPS)])
    return {
        "first page": "/",
        "a job": "/jobs/job-0",
        "a result": f"/runs/job-0/{first.run_id}",
        "its report": f"/runs/job-0/{first.run_id}/report.html",
        f"a run at step {STEPS:,}": f"/runs/going/{going.run_id}",
        "new job": "/drop",
        "this box": "/doctor",
    }


class Client(http.client.HTTPConnection):
    """A program with the box's key, on the page's socket."""

    def __init__(self, path: Path, key: str) -> None:
        """Take the socket and the key."""
        super().__init__("localhost", timeout=120)
        self._path, self._key = path, key

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def get(self, way: str, client: int = 0) -> http.client.HTTPResponse:
        """Ask for a page, as one of many clients: each has its own rate."""
        headers = {
            "Authorization": f"Bearer {self._key}",
            "Accept": "text/html",
            "X-Forwarded-For": f"10.0.{client // 250}.{client % 250}",
        }
        self.request("GET", way, headers=headers)
        return self.getresponse()


@contextmanager
def served(root: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path, str]]:
    """Serve a box's page; give its process, its socket and its key."""
    path = Path(tempfile.mkdtemp()) / "page.sock"
    command = [sys.executable, "-m", "runner.cli", "serve", "--socket", str(path)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    child = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, env=env)
    try:
        while not path.exists():
            time.sleep(0.02)
        yield child, path, (root / "page" / "key").read_text().strip()
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


def memory_mib(pid: int, name: str) -> float:
    """Read VmRSS or VmHWM of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return 0.0


def measure(root: Path, ways: dict[str, str], *, runs: int, followers: int) -> None:
    """Ask for each page and print its figures."""
    with served(root) as (child, path, key):
        print(f"\n{runs:,} runs; at rest {memory_mib(child.pid, 'VmRSS'):.1f} MiB")
        number = 0
        for name, way in ways.items():
            times = []
            for _ in range(ASKED):
                number += 1
                client = Client(path, key)
                began = time.perf_counter()
                answer = client.get(way, number)
                size = len(answer.read())
                times.append(1000 * (time.perf_counter() - began))
                assert answer.status == 200, (way, answer.status)
                client.close()
            times_sorted = sorted(times)
            print(
                f"  {name:24} first {times[0]:7.1f} ms, median {statistics.median(times):7.1f}, "
                f"p99 {times_sorted[int(0.99 * ASKED)]:7.1f}; {size / 1000:.0f} kB"
            )
        if followers:
            follow(child.pid, path, key, Path(root), ways, followers)
        print(f"  highest memory {memory_mib(child.pid, 'VmHWM'):.1f} MiB")


def follow(
    pid: int, path: Path, key: str, root: Path, ways: dict[str, str], followers: int
) -> None:
    """Let many follow a run that goes on, and print what that costs the page."""
    way = next(way for name, way in ways.items() if name.startswith("a run"))
    _, _, job, run_id = way.split("/")
    run = RunFolder(root / "outputs" / job / run_id)
    streams = []
    for number in range(followers):
        client = Client(path, key)
        streams.append((client, client.get(f"{way}/live", number)))
    ticks = cpu_seconds(pid)
    began = time.perf_counter()
    metrics = run.attempt(2) / "metrics.jsonl"
    for number in range(20):
        with metrics.open("a") as file:
            file.write(f'{{"step": {STEPS + number}, "loss": 1.0}}\n')
        time.sleep(1)
    spent, took = cpu_seconds(pid) - ticks, time.perf_counter() - began
    print(f"  {followers} follow a run, a step a second: {100 * spent / took:.1f}% of a core")
    for client, answer in streams:
        answer.close()
        client.close()


def paint(root: Path, ways: dict[str, str]) -> None:
    """Open each page in Chromium, and print when it first paints something of its content.

    In milliseconds since the browser began to load it (Paint Timing): median and longest of ten.
    """
    browser = chromium.Browser(str(chromium.find()), root / "profile")
    try:
        with office(root) as served_:
            page = browser.blank()
            page.looks(1280, 800)
            page.go(f"{served_.address}/sign-in")
            page.write(served_.key)
            page.press("Enter")
            page.until("location.pathname === '/' && document.readyState === 'complete'")
            for name, way in ways.items():
                times = []
                for _ in range(PAINTED):
                    page.go(served_.address + way)
                    page.until("performance.getEntriesByName('first-contentful-paint').length")
                    entry = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
                    times.append(float(page.ask(entry)))
                print(
                    f"  {name:24} first paint: first {times[0]:5.0f} ms, "
                    f"median {statistics.median(times):5.0f}, longest {max(times):5.0f}"
                )
            page.close()
    finally:
        browser.close()


def cpu_seconds(pid: int) -> float:
    """Read the processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure boxes of both sizes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, nargs="*", default=[10, 10_000])
    parser.add_argument("--followers", type=int, default=0)
    parser.add_argument("--paint", action="store_true")
    asked = parser.parse_args()
    for runs in asked.runs:
        with tempfile.TemporaryDirectory() as folder:
            ways = make_box(Path(folder), runs)
            measure(Path(folder), ways, runs=runs, followers=asked.followers)
            if asked.paint:
                paint(Path(folder), ways)


if __name__ == "__main__":
    main()
