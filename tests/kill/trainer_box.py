"""Turns a box with the real stages, its kills and an undisturbed run into what differs."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any

from daemon_box import attempt_of
from invariants import adapter_lost, all_of, changed, curve_of, leftovers, records, specs_lost
from kill_box import HERE, AtPoint, KillBox

from runner.contract.layout import RunFolder
from runner.contract.record import RunRecord
from runner.contract.states import State

STEPS, SAVE_STEPS = 24, 2
TOLERANCE = 1e-3  # of a loss: the promise for fp32; the same plan is expected to be exact
SPEC = f"""\
model: tiny
data: rows.jsonl
method: lora
eval_split: 0.1
training:
  max_steps: {STEPS}
  save_steps: {SAVE_STEPS}
  effective_batch_size: 4
  batch_size: 4
  learning_rate: 1e-3
"""
_POINTS = ("checkpoint begun", "checkpoint synced", "checkpoint named", "checkpoint doomed")


class TrainerBox(KillBox):
    """A box with one job for the real stages."""

    stage = HERE / "real_stage.py"
    life_seconds = 300.0

    def __init__(self, root: Path, model: Path, *, steps: int = STEPS) -> None:
        self.steps = steps
        super().__init__(root)
        tiny = self.root / "models" / "tiny"
        tiny.mkdir()
        for file in model.iterdir():
            os.link(file, tiny / file.name)

    def fill(self) -> None:
        """Drop one spec."""
        rows = [{"prompt": f"What is {n}?", "completion": f"The number {n}."} for n in range(48)]
        (self.jobs / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.drop_bytes("real", SPEC.replace(f" {STEPS}\n", f" {self.steps}\n"), State.SUCCEEDED)

    def settings(self) -> dict[str, Any]:
        """Train on the CPU."""
        return {**super().settings(), "device": "cpu", "grace_seconds": 60}

    def newest(self) -> tuple[RunFolder, RunRecord] | None:
        """Give the run, once it is recorded."""
        found, _ = records(self.outputs)
        return found[0] if found else None

    def steps_done(self) -> int:
        """Count the lines of the newest attempt."""
        found = self.newest()
        if found is None or not found[1].attempts:
            return 0
        metrics = attempt_of(found[0], len(found[1].attempts)) / "metrics.jsonl"
        return metrics.read_text().count('"loss"') if metrics.exists() else 0

    def killed_run(self, source: random.Random, kills: int) -> None:
        """Let the run live through so many kills, a few steps apart, and to its end."""
        for _ in range(kills):
            before = self.kills + len(self.hits())
            if source.random() < 0.5:
                self._killed_at_a_point(source)
            else:
                self._killed_between(source)
            if self.kills + len(self.hits()) == before:
                break  # it came to its end
        self.kills += len(self.hits())
        self.arm([])
        with self.daemon() as daemon:
            daemon.wait(timeout=self.life_seconds)

    def _killed_at_a_point(self, source: random.Random) -> None:
        victims: Any = source.choice(["self", "other", "both"])
        point, index = source.choice(_POINTS), source.randint(2, 3)
        self.arm([AtPoint(side="child", point=point, index=index, victims=victims)])
        self._until_hit_and_dead(victims)

    def _until_hit_and_dead(self, victims: str) -> None:
        hits = len(self.hits())
        with self.daemon() as daemon:
            end = time.monotonic() + self.life_seconds
            while daemon.poll() is None and time.monotonic() < end:
                if victims == "self" and len(self.hits()) > hits:
                    break  # the daemon lives: it goes down, uncounted, so that the next life counts
                self._look(daemon)

    @staticmethod
    def _look(daemon: subprocess.Popen[bytes]) -> None:
        try:
            daemon.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            pass

    def _killed_between(self, source: random.Random) -> None:
        self.arm([])
        wanted, at_start = source.randint(3, 5), self.attempts()
        with self.daemon() as daemon:
            end = time.monotonic() + self.life_seconds
            while daemon.poll() is None and time.monotonic() < end:
                if self.attempts() > at_start and self.steps_done() >= wanted:
                    self.kill_now(daemon.pid, source.choice(["daemon", "child", "both"]))
                    break
                self._look(daemon)

    def attempts(self) -> int:
        """Count the attempts."""
        found = self.newest()
        return len(found[1].attempts) if found else 0

    def trainer_lost(self, reference: list[tuple[int, float]]) -> list[str]:
        """Say what is not as in the undisturbed run."""
        found, unreadable = records(self.outputs)
        lost = [unreadable, specs_lost(self.jobs, self.outputs, self.dropped)]
        for run, record in found:
            if record.state is State.SUCCEEDED:
                lost.append(adapter_lost(run, record))
            curve = curve_of(run, record)
            if [step for step, _ in curve] != list(range(1, STEPS + 1)):
                lost.append([f"the curve reads {[step for step, _ in curve]}"])
            apart = max(
                (abs(a[1] - b[1]) for a, b in zip(curve, reference, strict=False)), default=0.0
            )
            if apart > TOLERANCE:
                lost.append([f"a loss is {apart} away from the undisturbed run's"])
            lost.append(self._too_often(run, record))
        folders = (self.jobs, self.outputs.root)
        return all_of([*lost, changed(self.personal), leftovers(*folders)])

    @staticmethod
    def _too_often(run: RunFolder, record: RunRecord) -> list[str]:
        lost = []
        for attempt in record.attempts:
            metrics = attempt_of(run, attempt.number) / "metrics.jsonl"
            text = metrics.read_text() if metrics.exists() else ""
            lines = [json.loads(line) for line in text.splitlines()]
            beyond = [line for line in lines if line["step"] > (attempt.last_step or 0)]
            if len({line["step"] for line in beyond}) > SAVE_STEPS:
                lost.append(f"attempt {attempt.number}: {len(beyond)} steps were done in vain")
        return lost
