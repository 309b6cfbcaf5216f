"""The prepare stage measured: rows, tokens, seconds, CPU and peak memory, and a second, cached run.

    .venv/bin/python benchmarks/prepare.py [--rows 100000] [--tokens 400] [--form jsonl|json|csv]
                                           [--models models] [--model demo-smollm2] [--twice]

The rows are sentences of the packaged FAQ (Swedish and English), drawn by a fixed seed; each has
about so many tokens of the model. Memory is that of all processes of the stage together (PSS: pages
that several of them share are counted once), looked at once a second; ``main_MiB`` is what the main
process itself holds, without the files that it has mapped, looked at ten times a second.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from runner.commands.demo import packaged_data
from runner.contract.layout import Outputs, RunFolder, new_run_id
from runner.contract.models import DEMO_MODEL
from runner.contract.stage_io import PreparePlan, PrepareResult, read_message, write_message

CHARS_A_TOKEN = 3.7  # of these sentences with SmolLM2's tokenizer, measured


def sentences() -> list[str]:
    """Take the FAQ apart."""
    rows = [json.loads(line) for line in packaged_data().decode().splitlines()]
    texts = [text for row in rows for text in _texts(row)]
    return [s for text in texts for s in re.split(r"(?<=[.?!])\s+", text) if len(s) > 20]


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def make_rows(rows: int, tokens: int) -> Iterator[dict[str, str]]:
    """Give rows of about so many tokens."""
    dice, known = random.Random(7), sentences()
    for number in range(rows):
        left = tokens * CHARS_A_TOKEN * dice.uniform(0.5, 1.5) - 150  # what the template adds
        answer: list[str] = []
        while left > 0:
            answer.append(dice.choice(known))
            left -= len(answer[-1]) + 1
        question = f"Question {number}: {dice.choice(known)}"
        yield {"question": question, "answer": " ".join(answer) or "Yes."}


def write_data(path: Path, rows: Iterator[dict[str, str]]) -> None:
    """Write the rows in the form that the file's ending names."""
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, ["question", "answer"])
            writer.writeheader()
            writer.writerows(rows)
            return
        array = path.suffix == ".json"
        for number, row in enumerate(rows):
            file.write(("[" if not number else ",") if array else "")
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.write("]" if array else "")


_MEMORY_LOOKS = 10
"""Memory is looked at once in so many looks at the clock: to add up a process's pages holds it up.
At every look, a tenth of a second apart, that took an eighth of all there was to compute."""


class Memory(threading.Thread):
    """Looks at what a process and all below it hold."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self.peak, self.main_peak = pid, 0, 0
        self._ticks: dict[int, int] = {}
        self._over = threading.Event()

    def run(self) -> None:
        """Look until told to stop."""
        look = 0
        while not self._over.wait(0.1):
            tree = _tree(self._pid)
            if look % _MEMORY_LOOKS == 0:
                self.peak = max(self.peak, sum(map(_pss, tree)))
            self.main_peak = max(self.main_peak, _anonymous(self._pid))
            look += 1
            self._ticks.update({pid: _ticks(pid) or self._ticks.get(pid, 0) for pid in tree})

    def stop(self) -> int:
        """End; give the peak in bytes."""
        self._over.set()
        self.join()
        return self.peak

    @property
    def cpu_seconds(self) -> float:
        """What all of them have computed, to a tenth of a second."""
        return sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> int:
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(facts[11]) + int(facts[12])


def _tree(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        below = [int(c) for t in tasks for c in (t / "children").read_text().split()]
    except (OSError, ValueError):
        return [pid]
    return [pid, *(inner for child in below for inner in _tree(child))]


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in text.splitlines() if line[:4] == "Pss:")


def _anonymous(pid: int) -> int:
    """Give the bytes that a process itself holds: no pages of files that it has mapped."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in text.splitlines() if line[:7] == "RssAnon")


def measure(run: RunFolder, spec: str, plan: PreparePlan) -> dict[str, float]:
    """Run the stage in a process of its own."""
    run.prepared.mkdir(parents=True)
    run.spec.write_text(spec)
    write_message(run.prepared / "plan.json", plan)
    start = time.perf_counter()
    words = [sys.executable, "-m", "runner.training", "prepare", str(run.prepared)]
    child = subprocess.Popen(words)
    memory = Memory(child.pid)
    memory.start()
    if child.wait():
        sys.exit("the stage failed")
    seconds = time.perf_counter() - start
    peak = memory.stop()
    result = read_message(run.prepared / "result.json", PrepareResult)
    return {
        "rows": sum(file.rows for file in result.data),
        "MB": round(sum(file.bytes for file in result.data) / 1e6, 1),
        "tokens": result.train_tokens + result.eval_tokens,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(memory.cpu_seconds, 1),
        "peak_MiB": round(peak / 2**20),
        "main_MiB": round(memory.main_peak / 2**20),
    }


def main() -> None:
    """Make the data, run the stage, print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--form", choices=["jsonl", "json", "csv"], default="jsonl")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--once", action="store_true", help="without the cached second run")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "jobs").mkdir()
        write_data(root / "jobs" / f"rows.{asked.form}", make_rows(asked.rows, asked.tokens))
        spec = f"model: {asked.model}\ndata: rows.{asked.form}\n"
        known: tuple[str, ...] = ()
        print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
        for which in ("first",) if asked.once else ("first", "again"):
            run = Outputs(root / "outputs").run("job", new_run_id())
            plan = PreparePlan(
                models_dir=str(asked.models.resolve()),
                jobs_dir=str(root / "jobs"),
                known_data=known,
                token_cache=str(Outputs(root / "outputs").token_cache),
                try_model=False,
            )
            print(json.dumps({"run": which, **measure(run, spec, plan)}), flush=True)
            known = (str(run.data),)


if __name__ == "__main__":
    main()
