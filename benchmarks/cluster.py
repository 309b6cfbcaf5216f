"""Many further boxes on one machine: jobs a minute, and how soon a free card has its next job.

    python benchmarks/cluster.py --boxes 8 --jobs 100 --seconds 5

Real: the daemon, an agent's process for each box, their files, and a process for each stage. Stood
in for: the stages' work (a training sleeps), the cards, and the share (a local disk: what NFS adds
to each write and look is not in these figures). With ``--kill`` one agent is killed in the midst,
and the time until its run goes on elsewhere is told.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "integration"))
STEPS = 8


def stage(name: str, folder: Path) -> int:
    """Be a stage: leave what the daemon wants to find, and when it was at work."""
    import hashlib
    import os
    import signal

    from runner.contract.layout import RunFolder, StageFolder, checkpoint_name

    began = time.monotonic()
    here, run = StageFolder(folder), RunFolder.containing(folder)
    results: dict[str, Any] = {
        "prepare": {"total_steps": STEPS, "train_rows": 10},
        "export": {"files": {"adapter_model.safetensors": hashlib.sha256(b"").hexdigest()}},
        "evaluate": {"eval_loss_before": 3.0, "eval_loss_after": 1.5, "eval_rows": 40},
    }
    if name == "train":
        plan = json.loads(here.plan.read_bytes())
        first = int((plan["resume_from"] or "step-0").rpartition("-")[2]) + 1
        each = float(os.environ.get("OMP_BENCHMARK_SECONDS", "1")) / STEPS
        asked: list[int] = []
        signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
        for step in range(first, STEPS + 1):
            time.sleep(each)
            with here.metrics.open("a") as metrics:
                metrics.write(json.dumps({"step": step, "loss": 1.0, "time": time.time()}) + "\n")
        final = here.checkpoints / checkpoint_name(STEPS)
        beside = here.checkpoints / ".tmp-x"
        beside.mkdir(parents=True)
        (beside / "state").write_bytes(b"x")
        file = {"sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}
        manifest = {"step": STEPS, "files": {"state": file}}
        (beside / "manifest.json").write_text(json.dumps(manifest))
        beside.rename(final)
        results["train"] = {
            "outcome": "succeeded",
            "batch_plan": plan["batch_plan"],
            "first_step": first,
            "last_step": STEPS,
            "checkpoint": final.name,
            "best_checkpoint": final.name,
        }
        (folder / "times.json").write_text(json.dumps([began, time.monotonic()]))
    if name == "export":
        run.adapter.mkdir(exist_ok=True)
        (run.adapter / "adapter_model.safetensors").touch()
    here.result.write_text(json.dumps(results[name]))
    return 0


def measure(boxes: int, jobs: int, seconds: float, lease: float, *, kill: bool) -> dict[str, Any]:
    """Work off a queue on so many boxes.

    Args:
        boxes: further ones.
        jobs: all dropped before the start.
        seconds: that each training takes.
        lease: in seconds.
        kill: one agent goes down when a quarter of the jobs is done.
    """
    import os

    from cluster_box import ClusterBox
    from daemon_box import wait_until

    os.environ["OMP_BENCHMARK_SECONDS"] = str(seconds)  # a variable that stages are handed
    root = Path(tempfile.mkdtemp(prefix="cluster-"))
    box = ClusterBox(root)
    command = [sys.executable, str(Path(__file__).resolve()), "--stage"]
    for number in range(jobs):
        box.drop(f"job{number:04d}")
    killed_at: float = 0.0
    agents: list[Any] = []

    def trained() -> int:
        return len(list(box.outputs.root.glob("job*/*/attempts/*/times.json")))

    def over() -> bool:
        return len(list((box.jobs / "done").glob("*.yaml"))) == jobs

    try:
        with box.watching(stage_command=command, lease_seconds=lease, grace_seconds=5.0):
            agents = [box.agent(f"box{n:02d}", stage_command=command) for n in range(boxes)]
            wait_until(lambda: all(box.is_there(a.name) for a in agents), seconds=600)
            began = time.monotonic()
            if kill:
                wait_until(lambda: trained() >= jobs // 4, seconds=1800, every=0.2)
                wait_until(lambda: len(agents[0].family()) > 1, seconds=600)
                killed_at = time.monotonic()
                agents[0].end()
            wait_until(over, seconds=7200, every=0.5)
            took = time.monotonic() - began
        return {
            "boxes": boxes,
            "jobs": jobs,
            "training_seconds": seconds,
            "lease_seconds": lease,
            "took_seconds": round(took, 1),
            "jobs_a_minute": round(60 * jobs / took, 1),
            **_gaps(box),
            **_ends(box, jobs),
            **(_lost(box, killed_at) if killed_at else {}),
        }
    finally:
        for agent in agents:
            agent.end()
        shutil.rmtree(root, ignore_errors=True)


def _attempts(box: Any) -> list[tuple[Any, Any, list[float] | None]]:
    found = []
    for run in box.outputs.runs():
        record = next(r for r in box.records_by_id.values() if r.run_id == run.run_id)
        for attempt in record.attempts:
            path = run.attempt(attempt.number, attempt.token) / "times.json"
            found.append(
                (record, attempt, json.loads(path.read_bytes()) if path.exists() else None)
            )
    return found


def _gaps(box: Any) -> dict[str, Any]:
    """Tell how long a card was free between two trainings; at the queue's end nothing waits."""
    box.records_by_id = {record.run_id: record for record in box.records()}
    of_box: dict[str, list[list[float]]] = defaultdict(list)
    last_start = 0.0
    for _, attempt, times in _attempts(box):
        if times is not None:
            of_box[attempt.box].append(times)
            last_start = max(last_start, times[0])
    gaps = []
    for times in of_box.values():
        times.sort()
        gaps += [after[0] - before[1] for before, after in pairwise(times)]
    gaps.sort()
    if not gaps:
        return {}
    return {
        "gap_median_seconds": round(statistics.median(gaps), 2),
        "gap_p99_seconds": round(gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))], 2),
        "gaps": len(gaps),
    }


def _ends(box: Any, jobs: int) -> dict[str, Any]:
    """Hold that every job has ended once, and no step counts twice."""
    records = list(box.records_by_id.values())
    states = {record.state.value for record in records}
    ends = [sum(a.outcome == "succeeded" for a in record.attempts) for record in records]
    curves = [box.counted(record.job) for record in records]
    whole = all(curve == list(range(1, STEPS + 1)) for curve in curves)
    exact = len(records) == jobs and states == {"succeeded"} and set(ends) == {1} and whole
    return {"each_job_ended_once": exact, "attempts": sum(len(r.attempts) for r in records)}


def _lost(box: Any, killed_at: float) -> dict[str, Any]:
    """Tell what the killed box cost: from its end to the start of its run elsewhere."""
    lost = [r for r in box.records_by_id.values() if any(a.fenced for a in r.attempts)]
    starts = [
        times[0]
        for record, attempt, times in _attempts(box)
        if record in lost and attempt.outcome == "succeeded" and times is not None
    ]
    return {
        "lost_runs": len(lost),
        "until_it_goes_on_seconds": round(min(starts) - killed_at, 1) if starts else None,
    }


def main() -> None:
    """Measure, and print a line of JSON for each number of boxes."""
    if sys.argv[1:2] == ["--stage"]:
        sys.exit(stage(sys.argv[2], Path(sys.argv[3])))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boxes", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5.0, help="that a training takes")
    parser.add_argument("--lease", type=float, default=60.0)
    parser.add_argument("--kill", action="store_true", help="one agent, in the midst")
    given = parser.parse_args()
    for boxes in given.boxes:
        found = measure(boxes, given.jobs, given.seconds, given.lease, kill=given.kill)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
