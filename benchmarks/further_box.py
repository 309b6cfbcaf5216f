"""A further box with a card: head and agent as two processes of a machine, each with a card.

    .venv/bin/python benchmarks/further_box.py [--shape 1B] [--steps 200] [--kill]

The whole product on random weights of a shape (gpu_box.py), on a machine with two cards: the head
has the first one, an agent under the name of cellar the second one, and both see the same folders.
Two jobs are dropped: which box and card trained each, how long, what of the card was forecast and
taken, and whether each step was made once. `--kill` ends the agent by SIGKILL in mid-training: its
training goes on on the head's card. Without cards processors train.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cards_side_by_side import BRIEFLY, write_rows
from gpu_box import make_model
from one_box import OneBox

from runner.card.ask import EVERY, ask_driver
from runner.contract.layout import StageFolder
from runner.words import GIB

BOX = "cellar"
LEASE_SECONDS = 10  # the shortest that is allowed: a benchmark does not wait for a minute


@contextmanager
def agent(box: OneBox, card: str, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Keep the agent of a further box at work."""
    words = [sys.executable, "-m", "runner.cli", "agent", "--name", BOX]
    words += ["--outputs-dir", str(box.outputs), "--models-dir", str(box.models)]
    environment = {**os.environ, "RUNNER_GPUS": card, "RUNNER_CLUSTER": ""}
    with subprocess.Popen([*words, "--cache-dir", str(home)], env=environment) as process:
        try:
            yield process
        finally:
            process.terminate()


def kill_in_mid_training(box: OneBox, process: subprocess.Popen[bytes]) -> None:
    """Kill the agent once what it trains has left some steps behind."""
    while True:
        for record in box.outputs.glob("*/*/run.json"):
            attempts = json.loads(record.read_text())["attempts"]
            if not attempts or attempts[-1].get("box") != BOX:
                continue
            (folder,) = record.parent.glob(f"attempts/*{attempts[-1]['token']}")
            metrics = folder / "metrics.jsonl"
            if metrics.exists() and len(metrics.read_text().splitlines()) >= 20:
                os.kill(process.pid, signal.SIGKILL)
                print(f"the agent was killed while it trained {record.parent.parent.name}")
                return
        time.sleep(0.1)


def tell(box: OneBox, job: str, dropped: float) -> None:
    """Print what came of a job."""
    run, record = box.record(job)
    print(f"{job}: {record.state.value}; {record.error.message if record.error else 'no error'}")
    steps: Counter[int] = Counter()
    for attempt in record.attempts:
        peak = (attempt.peak_gpu_memory_bytes or 0) / GIB
        began = attempt.started_at.timestamp() - dropped
        lines = StageFolder(run.attempt(attempt.number, attempt.token)).metrics.read_text()
        print(
            f"  attempt {attempt.number}: {attempt.outcome}, on {attempt.box or 'the head'} "
            f"{[card.uuid or card.number for card in attempt.cards]}, from {began:.1f} s on for "
            f"{attempt.seconds or 0:.1f} s, steps {attempt.first_step} to {attempt.last_step} "
            f"({lines.count('grad_norm')} left their lines), {peak:.2f} GiB"
            f"{', fenced' if attempt.fenced else ''} ({attempt.reason or 'no reason'})"
        )
        if attempt.first_step and attempt.last_step:
            steps.update(range(attempt.first_step, attempt.last_step + 1))
    again = [step for step, count in steps.items() if count > 1]
    print(f"  {len(steps)} steps count, each once: {not again}")
    needed = record.forecast.get("gpu_memory_bytes")
    measured = record.forecast.get("measured_gpu_memory_bytes")
    if needed and measured:
        off = 100 * (needed / measured - 1)
        print(f"  memory: {needed / GIB:.2f} GiB forecast, {measured / GIB:.2f} taken: {off:+.1f}%")
    print(f"  {record.metrics.get('tokens_per_second')} tokens/s")


def main() -> None:
    """Run the jobs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="1B")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--kill", action="store_true")
    asked = parser.parse_args()
    answer = ask_driver(EVERY)
    cards = [card.uuid for card in answer.cards] if answer else []
    print(f"cards: {cards or 'none'}; shape {asked.shape}, {asked.steps} steps each")
    os.environ["RUNNER_GPUS"] = cards[0] if cards else ""
    os.environ.update(RUNNER_CLUSTER="on", RUNNER_LEASE_SECONDS=str(LEASE_SECONDS))
    with tempfile.TemporaryDirectory() as models, tempfile.TemporaryDirectory() as folder:
        make_model(Path(models), asked.shape)
        box, home = OneBox(Path(folder), Path(models)), Path(folder) / BOX
        home.mkdir()
        with box.daemon(), agent(box, cards[1] if len(cards) > 1 else "", home) as process:
            said = box.outputs / ".runner" / "cluster" / "boxes" / f"{BOX}.json"
            while not said.exists():
                time.sleep(0.1)
            if asked.kill:
                words = (box, process)
                threading.Thread(target=kill_in_mid_training, args=words, daemon=True).start()
            jobs, dropped = ["first", "second"], time.time()
            for job in jobs:
                write_rows(box, job, asked.rows)
                box.drop(
                    job,
                    f"model: {asked.shape}\ndata: {job}.jsonl\neval_split: 0.02\n{BRIEFLY}"
                    "method: qlora\n"
                    f"training: {{max_steps: {asked.steps}, batch_size: 8, save_steps: 10}}\n",
                )
            box.wait(jobs)
            print(f"{time.time() - dropped:.1f} s from the drop to the last verdict")
            for job in jobs:
                tell(box, job, dropped)


if __name__ == "__main__":
    main()
