"""A box of its own for a benchmark: specs are dropped, the real daemon works them off."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from runner.contract.layout import Outputs, RunFolder
from runner.contract.record import RunRecord, read_record
from runner.errors import DamagedError


class OneBox:
    """A folder with jobs/, outputs/ and models/."""

    def __init__(self, root: Path, models: Path) -> None:
        """Make the folders; the base models are somebody else's."""
        self.jobs, self.outputs, self.models = root / "jobs", root / "outputs", models
        for folder in (self.jobs, self.outputs):
            folder.mkdir(parents=True, exist_ok=True)

    def drop(self, name: str, spec: str) -> None:
        """Drop a spec."""
        (self.jobs / f"{name}.yaml").write_text(spec, encoding="utf-8")

    def work_off(self) -> float:
        """Let a daemon work until nothing is left; give the seconds that it took."""
        began = time.monotonic()
        words = [*self._watch(), "--once"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stdout[-6000:], done.stderr[-3000:], file=sys.stderr)
        return time.monotonic() - began

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """Keep a daemon at work meanwhile, as an office's box does."""
        with subprocess.Popen(
            self._watch(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                yield
            finally:
                process.terminate()

    def wait(self, jobs: Sequence[str]) -> None:
        """Wait until each of these jobs has a run that has ended."""
        while not all(self._has_ended(job) for job in jobs):
            time.sleep(0.1)

    def _watch(self) -> list[str]:
        words = [sys.executable, "-m", "runner.cli", "watch"]
        for name in ("jobs", "outputs", "models"):
            words += [f"--{name}-dir", str(getattr(self, name))]
        return words

    def _has_ended(self, job: str) -> bool:
        try:
            return self.record(job)[1].state.is_final
        except (DamagedError, FileNotFoundError, ValueError):  # not taken yet, or not whole yet
            return False

    def record(self, job: str) -> tuple[RunFolder, RunRecord]:
        """Give a job's newest run."""
        runs = [run for run in Outputs(self.outputs).runs() if run.job == job]
        run = max(runs, key=lambda one: one.run_id)
        return run, read_record(run.record)
