"""Two jobs on two cards, at once and one after the other: seconds, and which card each had.

    .venv/bin/python benchmarks/cards_side_by_side.py [--shape 1B] [--rows 2000] [--steps 735]

The whole product on random weights of a shape (gpu_box.py). The box has worked off a short job when
the arms begin, as an office's has: the base in 4 bits and compiled kernels are there. Each arm has
a daemon of its own that has been idle for a while, and the same two jobs. Seconds are those from
their drop to the last verdict. 735 steps are three times through 2,000 rows but those held out. The
arms are one card and all cards; 1.9 times is wanted of two. With fewer than two cards only the
first arm is run.
`--lose` kills one of the two trainings in mid-run: the other one is not to be touched by that.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from gpu_box import learnable_words, make_model, word_of
from one_box import OneBox

from runner.card.ask import EVERY, ask_driver
from runner.contract.layout import RunFolder
from runner.daemon.stages.process import PID_FILE

JOBS = ("first", "second")
# Random weights never end an answer: generated answers and the questions of what was forgotten
# would take their three minutes each.
BRIEFLY = "evaluation: {samples: 0, minutes: 0.05, forgetting: false, recital: false}\n"
# An office's jobs are further apart than what the processes that stand by need for their imports.
PAUSE_SECONDS = 15


def write_rows(box: OneBox, job: str, count: int) -> None:
    """Write rows of some hundred tokens; each job has its own, the same ones in each arm."""
    dice = random.Random(job.partition("-")[0])
    with (box.jobs / f"{job}.jsonl").open("w") as file:
        for _ in range(count):
            words = [word_of(number) for number in learnable_words(dice.randint(200, 600), dice)]
            row = {"prompt": "".join(words[:20]), "completion": "".join(words[20:])}
            file.write(json.dumps(row) + "\n")


def kill_one(box: OneBox, job: str) -> None:
    """Kill the training of a job once it has left some steps behind."""
    while True:
        for metrics in box.outputs.glob(f"{job}/*/attempts/01-*/metrics.jsonl"):
            if len(metrics.read_text().splitlines()) >= 5:
                pid = int((metrics.parent / PID_FILE).read_text().split()[0])
                os.kill(pid, signal.SIGKILL)
                return
        time.sleep(0.1)


def cards_of(run: RunFolder) -> list[str]:
    """Tell which cards a run's stages had, from its log."""
    events = [json.loads(line) for line in run.log.read_text().splitlines()]
    return sorted({event["card"] for event in events if "card" in event})


def stages_of(run: RunFolder, began: datetime) -> str:
    """Say when each stage began and ended, in seconds since the drop, from the run's log."""
    words = []
    for line in run.log.read_text().splitlines():
        event = json.loads(line)
        stage, _, what = event["event"].partition(": ")[2].rpartition(" ")
        if what in ("started", "ended"):
            at = (datetime.fromisoformat(event["time"]) - began).total_seconds()
            words.append(f"{stage} {at:.1f}" if what == "started" else f"to {at:.1f},")
    return " ".join(words)


def first_step_of(run: RunFolder, began: datetime) -> str:
    """Say when the first step of a run was done, in seconds since the drop."""
    (metrics,) = run.root.glob("attempts/01-*/metrics.jsonl")
    line = json.loads(metrics.read_text().partition("\n")[0])
    return f"{(datetime.fromisoformat(line['time']) - began).total_seconds():.1f}"


def measure(box: OneBox, asked: argparse.Namespace, jobs: list[str], steps: int) -> float:
    """Have the daemon work off jobs; print what came of each, and give the seconds of all."""
    for job in jobs:
        write_rows(box, job, asked.rows)
        box.drop(
            job,
            f"model: {asked.shape}\ndata: {job}.jsonl\neval_split: 0.02\n{BRIEFLY}"
            "method: qlora\n"
            f"training: {{max_steps: {steps}, batch_size: 8}}\n",
        )
    if asked.lose and len(jobs) > 1:
        threading.Thread(target=kill_one, args=(box, jobs[0]), daemon=True).start()
    began, dropped = time.monotonic(), datetime.now(UTC)
    box.wait(jobs)
    seconds = time.monotonic() - began
    for job in jobs:
        run, record = box.record(job)
        train = sum(attempt.seconds or 0 for attempt in record.attempts)
        made = [(attempt.first_step, attempt.last_step) for attempt in record.attempts]
        print(
            f"  {job}: {record.state.value}, train {train:.1f} s, steps {made}, "
            f"{record.metrics.get('tokens_per_second')} tokens/s, cards {cards_of(run)}\n"
            f"    {stages_of(run, dropped)} first step done at {first_step_of(run, dropped)}"
        )
        if len(record.attempts) > 1:
            print("\n".join(f"    {one.outcome}: {one.reason}" for one in record.attempts))
    return seconds


def main() -> None:
    """Run the arms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="1B")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=735)
    parser.add_argument("--lose", action="store_true")
    asked = parser.parse_args()
    answer = ask_driver(EVERY)
    names = [card.name for card in answer.cards] if answer else []
    print(f"cards: {names or 'none'}; shape {asked.shape}, {asked.steps} steps each")
    arms = {"one card": ""} | ({"all cards": "all"} if len(names) > 1 else {})
    with tempfile.TemporaryDirectory() as models, tempfile.TemporaryDirectory() as folder:
        make_model(Path(models), asked.shape)
        box = OneBox(Path(folder), Path(models))
        with box.daemon():
            print(f"a short job: {measure(box, asked, ['short'], 5):.1f} s", flush=True)
        taken = {}
        for arm, gpus in arms.items():
            os.environ["RUNNER_GPUS"] = gpus
            jobs = [f"{job}-{arm.replace(' ', '-')}" for job in JOBS]
            with box.daemon():
                time.sleep(PAUSE_SECONDS)
                taken[arm] = measure(box, asked, jobs, asked.steps)
            print(f"{arm}: {taken[arm]:.1f} s", flush=True)
        if len(taken) > 1:
            print(f"all cards are {taken['one card'] / taken['all cards']:.2f} times as quick")


if __name__ == "__main__":
    main()
