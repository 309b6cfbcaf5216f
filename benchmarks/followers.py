"""What followers of the page cost a training beside them: steps a second with none and with many.

    .venv/bin/python benchmarks/followers.py --model models/demo-smollm2
    .venv/bin/python benchmarks/followers.py --model … --followers 200 --pairs 4

The real daemon trains a real model on the CPU, in one run; the real page is followed, and is not,
by turns, so that whatever else the machine does falls on both alike. Nothing leaves loopback. What
the followers themselves take of the machine is counted, too: in an office they sit elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import selectors
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from page import Client, cpu_seconds, served

from runner.contract.layout import Outputs, RunFolder

WARM_STEPS = 15  # the first ones of a run are slower
SETTLE_SECONDS = 3.0  # after followers have come or gone


def make_box(root: Path, model: Path) -> None:
    """Make a box with one model, and drop a job that trains for as long as it is let."""
    for name in ("jobs", "outputs", "models"):
        (root / name).mkdir()
    shutil.copytree(model, root / "models" / "m")
    rows = [
        {"instruction": f"How high is wall {n}?", "output": f"Wall {n} is {3 * n} feet high."}
        for n in range(2000)
    ]
    (root / "jobs" / "walls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = "{max_steps: 20000, batch_size: 1, gradient_accumulation: 1, save_steps: 10000}"
    spec = f"model: m\ndata: walls.jsonl\nmethod: lora\ntraining: {training}\n"
    (root / "jobs" / "walls.yaml").write_text(spec)


@contextlib.contextmanager
def training(root: Path) -> Iterator[RunFolder]:
    """Let the daemon train until the block ends; give the run, once it has found its pace."""
    command = [sys.executable, "-m", "runner.cli", "watch"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "RUNNER_DEVICE": "cpu"}
    with (root / "watch.log").open("wb") as log:
        child = subprocess.Popen(command, cwd=root, env=env, stdout=log, stderr=log)
    try:
        while not (found := list(Outputs(root / "outputs").runs())) or len(times(found[0])) < (
            WARM_STEPS
        ):
            assert child.poll() is None, (root / "watch.log").read_text()
            time.sleep(0.5)
        yield found[0]
    finally:
        child.terminate()
        child.wait(180)


def times(run: RunFolder) -> list[float]:
    """Read when each step ended, in seconds since 1970."""
    path = (run.attempt_folders() or [run.attempt(1)])[0] / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):  # the last one may be half written
            entry = json.loads(line)
            if "loss" in entry:
                found.append(datetime.fromisoformat(entry["time"]).timestamp())
    return found


class Followers:
    """Browsers that follow a run: what they are sent is read and thrown away."""

    def __init__(self, path: Path, key: str, way: str, count: int) -> None:
        """Let so many begin to follow."""
        self._selector, self._held, self.bytes = selectors.DefaultSelector(), [], 0
        for number in range(count):
            client = Client(path, key)
            answer = client.get(f"{way}/live", number)
            assert answer.status == 200, answer.status
            client.sock.setblocking(False)
            self._selector.register(client.sock, selectors.EVENT_READ)
            self._held.append((client, answer))

    def read_until(self, end: float) -> None:
        """Read what comes, until a monotonic time."""
        while (left := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                with contextlib.suppress(BlockingIOError):
                    self.bytes += len(key.fileobj.recv(1 << 20))  # type: ignore[union-attr]

    def leave(self) -> None:
        """Close all connections."""
        self._selector.close()
        for client, answer in self._held:
            answer.close()
            client.close()


def durations(ends: list[float], begin: float, end: float) -> list[float]:
    """Give how long each step took that lies in a window, in seconds."""
    within = [at for at in ends if begin <= at <= end]
    return [after - before for before, after in itertools.pairwise(within)]


def said(seconds: list[float]) -> str:
    """Say steps a second, median and p99."""
    ordered = sorted(seconds)
    median, p99 = statistics.median(ordered), ordered[int(0.99 * len(ordered))]
    return (
        f"{len(ordered):5} steps, {len(ordered) / sum(ordered):.3f} a second; a step: median "
        f"{1000 * median:.0f} ms, p99 {1000 * p99:.0f}"
    )


def measure(root: Path, *, count: int, pairs: int, seconds: float) -> None:
    """Measure by turns, and print."""
    chance = random.Random(1)
    windows: list[tuple[int, float, float]] = []
    with served(root) as (child, path, key), training(root) as run:
        way = f"/runs/{run.job}/{run.run_id}"
        for _ in range(pairs):
            for followed in chance.sample([0, count], 2):
                before = cpu_seconds(child.pid)
                followers = Followers(path, key, way, followed)
                followers.read_until(time.monotonic() + SETTLE_SECONDS)
                begin = time.time()
                followers.read_until(time.monotonic() + seconds)
                end = time.time()
                followers.leave()
                spent = cpu_seconds(child.pid) - before
                windows.append((followed, begin, end))
                took = durations(times(run), begin, end)
                print(
                    f"  {followed:3} followers: {said(took)}; the page took "
                    f"{100 * spent / (seconds + SETTLE_SECONDS):.1f}% of a core, "
                    f"sent {followers.bytes / 1e6:.1f} MB",
                    flush=True,
                )
        ends = times(run)
    for followed in (0, count):
        steps = [
            one
            for number, begin, end in windows
            if number == followed
            for one in durations(ends, begin, end)
        ]
        print(f"{followed:3} followers together: {said(steps)}")
    rates = [len(took) / sum(took) for took in (durations(ends, b, e) for _, b, e in windows)]
    ratios = sorted(
        (second / first if numbers[0] == 0 else first / second)
        for first, second, numbers in (
            (rates[at], rates[at + 1], (windows[at][0], windows[at + 1][0]))
            for at in range(0, len(rates), 2)
        )
    )
    print(
        f"steps a second with {count} followers against none, pair by pair: median "
        f"{statistics.median(ratios):.3f}, from {ratios[0]:.3f} to {ratios[-1]:.3f}"
    )


def main() -> None:
    """Measure one box."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True, help="A folder with a base model.")
    parser.add_argument("--followers", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=45.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_box(Path(folder), asked.model)
        measure(Path(folder), count=asked.followers, pairs=asked.pairs, seconds=asked.seconds)


if __name__ == "__main__":
    main()
