"""One job on two cards under the real daemon: from the drop to the verdict, forecast and measured.

    .venv/bin/python benchmarks/one_job_whole_way.py [--shape 1B] [--steps 40] [--kill] [--share 8]

The whole product on random weights of a shape (gpu_box.py), on a machine with two cards. Dropped
are `gpus: 2` and then `gpus: 1`, the same rows: what each was forecast to take of a card and in
time, and what it took; which cards its attempts had; how far the losses are apart; whether both
cards' leases are free at the end. `--kill` ends one rank by SIGKILL after five steps: the run goes
on on both. `--share GIB` is a cap below which one card does not hold the base, with `gpus: auto`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

from cards_side_by_side import BRIEFLY, write_rows
from gpu_box import make_model
from one_box import OneBox

from runner.card.ask import EVERY, ask_driver
from runner.contract.layout import StageFolder
from runner.files.lock import Lock
from runner.words import GIB


def rank_of(number: int) -> int | None:
    """Find the process of a rank by its command line."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"--rank={number}/" in entry.read_bytes().decode(errors="replace"):
                return int(entry.parent.name)
    return None


def kill_rank(box: OneBox) -> None:
    """Kill the second rank once the run has left some steps behind."""
    while True:
        for metrics in box.outputs.glob("both/*/attempts/01-*/metrics.jsonl"):
            pid = rank_of(1)
            if pid is not None and len(metrics.read_text().splitlines()) >= 5:
                os.kill(pid, signal.SIGKILL)
                print(f"rank 1 (process {pid}) was killed")
                return
        time.sleep(0.1)


def losses(box: OneBox, job: str) -> dict[int, float]:
    """Read each step's loss: of a step that was made twice, the last."""
    run, record = box.record(job)
    found = {}
    for attempt in record.attempts:
        for line in (
            StageFolder(run.attempt(attempt.number, attempt.token)).metrics.read_text().splitlines()
        ):
            event = json.loads(line)
            if "loss" in event:
                found[int(event["step"])] = float(event["loss"])
    return found


def tell(box: OneBox, job: str) -> None:
    """Print what came of a job."""
    _, record = box.record(job)
    forecast = record.forecast
    print(f"{job}: {record.state.value}; {record.error.message if record.error else 'no error'}")
    for attempt in record.attempts:
        peak = (attempt.peak_gpu_memory_bytes or 0) / GIB
        print(
            f"  attempt {attempt.number}: {attempt.outcome}, {attempt.ranks} ranks on "
            f"{[card.number for card in attempt.cards]}, base shared: {attempt.shard_base}, steps "
            f"{attempt.first_step} to {attempt.last_step}, {attempt.seconds or 0:.1f} s, "
            f"{peak:.2f} GiB ({attempt.reason or 'no reason'})"
        )
    needed, measured = forecast.get("gpu_memory_bytes"), forecast.get("measured_gpu_memory_bytes")
    if needed and measured:
        off = 100 * (needed / measured - 1)
        print(f"  memory: {needed / GIB:.2f} GiB forecast, {measured / GIB:.2f} taken: {off:+.1f}%")
    whole, alone = forecast.get("seconds"), forecast.get("one_card_seconds")
    print(f"  {record.metrics.get('tokens_per_second')} tokens/s; {record.batch_plan}")
    print(f"  whole run: {whole} s forecast, on one card {alone} s")


def main() -> None:
    """Run the jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="1B")
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--share", type=float, help="a cap in GiB; the job then asks for auto")
    asked = parser.parse_args()
    answer = ask_driver(EVERY)
    print(f"cards: {[card.name for card in answer.cards] if answer else 'none'}")
    os.environ["RUNNER_GPUS"] = "all"
    limits = f"limits: {{gpu_memory_gib: {asked.share}}}\n" if asked.share else ""
    jobs = {"both": "auto" if asked.share else 2} | ({} if asked.share else {"one": 1})
    with tempfile.TemporaryDirectory() as models, tempfile.TemporaryDirectory() as folder:
        make_model(Path(models), asked.shape)
        box = OneBox(Path(folder), Path(models))
        write_rows(box, "rows", asked.rows)
        for job, gpus in jobs.items():
            box.drop(
                job,
                f"model: {asked.shape}\ndata: rows.jsonl\neval_split: 0.02\n{BRIEFLY}"
                f"method: qlora\n{limits}"
                f"resources: {{gpus: {gpus}}}\n"
                f"training: {{max_steps: {asked.steps}, effective_batch_size: 16, "
                "save_steps: 5}\n",
            )
        if asked.kill:
            threading.Thread(target=kill_rank, args=(box,), daemon=True).start()
        print(f"{box.work_off():.1f} s from the drop to the last verdict")
        for job in jobs:
            tell(box, job)
        if "one" in jobs:
            both, one = losses(box, "both"), losses(box, "one")
            apart = [abs(both[step] - one[step]) for step in both.keys() & one.keys()]
            print(f"losses of {len(apart)} steps are apart by {max(apart, default=0):.1e} at most")
        held = [path.name for path in box.outputs.glob(".runner/*.lease") if Lock.is_held(path)]
        print(f"leases still held: {held or 'none'}; ranks still there: {rank_of(0) or 'none'}")


if __name__ == "__main__":
    main()
