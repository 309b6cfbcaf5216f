"""Turns a temporary folder into a box with a real daemon, driven as a subprocess."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner.contract.layout import Outputs, RunFolder
from runner.contract.record import RunRecord, read_record
from runner.contract.states import State

STANDIN = Path(__file__).with_name("standin_stage.py")
REPOSITORY = Path(__file__).parents[2]
_DRIVER = """
import gc
gc.disable()  # while modules are imported: looks for garbage take a tenth of a daemon's start
import json, sys
from pathlib import Path
from runner.contract.settings import Settings
from runner.commands.watch import watch
from runner.errors import BusyError
gc.enable()
given = json.loads(sys.argv[1])
for name in ("jobs_dir", "outputs_dir", "models_dir"):
    given[name] = Path(given[name])
for name in ("stage_command", "report_command"):
    if name in given:
        given[name] = tuple(given[name])
try:
    status = watch(Settings(**given))
except BusyError as error:
    print(error.message, file=sys.stderr)
    status = 3
print("torch" in sys.modules)
sys.exit(status)
"""


def wait_until(what: Callable[[], Any], *, seconds: float = 180.0, every: float = 0.02) -> Any:
    """Wait for something to become true, and give it; look ``every`` so many seconds."""
    end = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(every)


def attempt_of(run: RunFolder, number: int) -> Path:
    """Give the folder of an attempt that a daemon has placed: its name ends in a token."""
    found = [one for one in run.attempt_folders() if one.name.startswith(f"{number:02d}-")]
    return found[0] if found else run.attempt(number)


class Box:
    """Folders, and the daemon over them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.prefix: list[str] = []
        """Words before the daemon's own command line."""
        self.jobs = root / "jobs"
        self.outputs = Outputs(root / "outputs")
        for folder in (self.jobs, self.outputs.root, root / "models"):
            folder.mkdir(exist_ok=True)  # a share may be mounted there already
        (root / "models" / "m").mkdir(exist_ok=True)
        (root / "models" / "m" / "config.json").write_text("{}")  # the stand-in reads no model

    def drop(self, name: str, **script: list[Any]) -> None:
        """Drop a spec whose data tells the stand-in how each stage ends."""
        (self.jobs / f"{name}.jsonl").write_text(json.dumps(script))
        self.drop_spec(name)

    def drop_spec(self, name: str, extra: str = "") -> None:
        """Drop a spec alone."""
        (self.jobs / f"{name}.yaml").write_text(f"model: m\ndata: {name}.jsonl\n{extra}")

    def command(self, **settings: Any) -> list[str]:
        """Build the command line of a daemon with quick settings."""
        given = {
            "jobs_dir": str(self.jobs),
            "outputs_dir": str(self.outputs.root),
            "models_dir": str(self.root / "models"),
            "settle_seconds": 0.1,
            "rescan_seconds": 0.5,
            "broken_spec_seconds": 0.5,
            "grace_seconds": 10,
            "min_free_bytes": 0,
            "reports": False,  # a process more at each change of state; test_reports.py has them
            "stage_command": [sys.executable, str(STANDIN)],
            **settings,
        }
        return [*self.prefix, sys.executable, "-c", _DRIVER, json.dumps(given)]

    def once(self, *, timeout: float = 240, **settings: Any) -> subprocess.CompletedProcess[str]:
        """Work off what is there."""
        return subprocess.run(
            self.command(once=True, **settings),
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    @property
    def environment(self) -> dict[str, str]:
        """What the daemon inherits, a secret that it must not pass on included."""
        return {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_TOKEN": "secret"}

    @contextmanager
    def watching(
        self, environment: dict[str, str] | None = None, **settings: Any
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a daemon for a while."""
        with (self.root / "daemon.out").open("ab") as output:
            daemon = subprocess.Popen(
                self.command(**settings),
                cwd=REPOSITORY,
                env={**self.environment, **(environment or {})},
                stdout=output,
                stderr=output,
            )
        try:
            yield daemon
        finally:
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=20)
            finally:  # a test that fails must not leave its daemon to the next one
                daemon.kill()
                # Not for ever: whoever waits for a file server that has read the question and does
                # not answer cannot even be killed before that server goes, at the test's end.
                daemon.wait(60)

    def records(self) -> list[RunRecord]:
        """Read all records, in the order of their claim."""
        found = [read_record(run.record) for run in self.outputs.runs() if run.record.exists()]
        return sorted(found, key=lambda record: record.sequence)

    def record(self) -> RunRecord:
        """Read the only record."""
        (record,) = self.records()
        return record

    def in_state(self, state: State) -> bool:
        """Whether there is one run, and it is in this state."""
        return [record.state for record in self.records()] == [state]

    def answer(self, folder: str) -> str:
        """Read the only answer in a state folder."""
        (path,) = wait_until(lambda: list((self.jobs / folder).glob("*.txt")))
        return path.read_text()


class WrongClockBox(Box):
    """A box whose daemon has a clock that the test sets."""

    def __init__(self, root: Path) -> None:
        """Begin with a clock that is right."""
        super().__init__(root)
        self.wrong_by(0)

    def wrong_by(self, seconds: float) -> None:
        """Set the daemon's clock."""
        beside = self.root / "clock.new"
        beside.write_text(str(seconds))
        beside.rename(self.root / "clock")

    @property
    def environment(self) -> dict[str, str]:
        """What the daemon inherits."""
        return super().environment | {
            "PYTHONPATH": f"{REPOSITORY / 'tests' / 'planted'}:{REPOSITORY}",
            "PLANTED_CLOCK": str(self.root / "clock"),
        }

    def of(self, job: str) -> RunRecord:
        """Read the record of a job's run that was claimed last."""
        return [record for record in self.records() if record.job == job][-1]

    def claimed(self) -> list[str]:
        """List the jobs in the order of their claims."""
        return [record.job for record in self.records()]

    def status(self) -> str:
        """Read what the share's users read first."""
        path = self.jobs / "STATUS.txt"
        return path.read_text() if path.exists() else ""
