"""A box with a cluster: a real daemon, and agents of further boxes as processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daemon_box import REPOSITORY, STANDIN, Box

from runner.contract.cluster import BoxSaid, ClusterFolder, hear
from runner.contract.record import Attempt, RunRecord

DRIVER = Path(__file__).with_name("standin_driver")
LEASE_SECONDS, GRACE_SECONDS = 3.0, 2.0
_AGENT = """
import json, os, sys
from pathlib import Path
given = json.loads(sys.argv[1])
if "version" in given:
    import runner.contract.image_version as own
    own.image_version = lambda: given["version"]
from runner.agent.agent import run_agent
from runner.contract.settings import Settings
from runner.daemon.log import Log
from runner.errors import BusyError
for name in ("jobs_dir", "outputs_dir", "models_dir", "cache_dir"):
    given["settings"][name] = Path(given["settings"][name])
given["settings"]["stage_command"] = tuple(given["settings"]["stage_command"])
log = Log(Path(os.devnull))
try:
    sys.exit(run_agent(Settings(**given["settings"]), given["box"], say_event=log.say))
except BusyError as error:
    print(error.message, file=sys.stderr)
    sys.exit(3)
"""


def standin_cards(path: Path, cards: list[dict[str, Any]]) -> dict[str, str]:
    """Let a stand-in for the driver tell of cards; give the variables by which it is found."""
    path.write_text(json.dumps({"cards": [{"code": 0, "held": [], **card} for card in cards]}))
    return {"PYTHONPATH": f"{DRIVER}{os.pathsep}{REPOSITORY}", "STANDIN_DRIVER": str(path)}


class Agent:
    """The agent of one further box."""

    def __init__(self, box: ClusterBox, name: str, prefix: list[str], **more: Any) -> None:
        self.name, self.log = name, box.root / f"agent-{name}.out"
        stage = more.pop("stage_command", [sys.executable, str(STANDIN)])
        settings = {
            "jobs_dir": str(box.outputs.root),
            "outputs_dir": str(box.outputs.root),
            "models_dir": str(box.root / "models"),
            "cache_dir": str(box.root / f"cache-{name}"),
            "device": "cpu",
            "stage_command": stage,
        }
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        if (cards := more.pop("cards", None)) is not None:
            settings |= {"device": "auto", "gpus": "all"}
            environment |= standin_cards(box.root / f"driver-{name}.json", cards)
        given = json.dumps({"box": name, "settings": settings, **more})
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-c", _AGENT, given],
                cwd=REPOSITORY,
                env=environment,
                stdout=output,
                stderr=output,
            )

    def said(self) -> str:
        """Read what it has said to people."""
        return self.log.read_text(errors="replace")

    def family(self) -> list[int]:
        """List its own process and those that it has started."""
        path = Path(f"/proc/{self.process.pid}/task")
        found = [self.process.pid]
        for task in path.iterdir():
            found += [int(pid) for pid in (task / "children").read_text().split()]
        return found

    def freeze(self) -> list[int]:
        """Stop it and its stages, as a machine that stands still; give their process ids."""
        family = self.family()
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        return family

    def end(self) -> None:
        """End it, whatever it is at."""
        if self.process.poll() is None:
            for pid in self.family():
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        self.process.wait(20)


class ClusterBox(Box):
    """The head, and what lies on the share."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.folder = ClusterFolder.of(self.outputs)
        self._agents: list[Agent] = []

    def command(self, **settings: Any) -> list[str]:
        """Build the head's command line, with short times."""
        given = {
            "cluster": "others",
            "lease_seconds": LEASE_SECONDS,
            "grace_seconds": GRACE_SECONDS,
            "device": "cpu",
            **settings,
        }
        return super().command(**given)

    def agent(self, name: str, *, prefix: list[str] | None = None, **more: Any) -> Agent:
        """Start a further box's agent."""
        agent = Agent(self, name, prefix or [], **more)
        self._agents.append(agent)
        return agent

    @contextmanager
    def ending_agents(self) -> Iterator[None]:
        """End, at the end of a test, all that is left."""
        try:
            yield
        finally:
            for agent in self._agents:
                agent.end()

    def is_there(self, name: str) -> bool:
        """Whether a box has said that it lives."""
        try:
            return hear(self.folder.box(name), BoxSaid) is not None
        except OSError:
            return False

    def of(self, job: str) -> RunRecord:
        """Read the record of a job's only run."""
        return next(record for record in self.records() if record.job == job)

    def attempts(self, job: str) -> tuple[Attempt, ...]:
        """Give a job's attempts; none before it is claimed."""
        return next((one.attempts for one in self.records() if one.job == job), ())

    def hanging(self, job: str, number: int = 1) -> list[Path]:
        """Find the mark of a stage that waits to be ended."""
        return list(self.outputs.root.glob(f"{job}/*/attempts/{number:02d}-*/hanging"))

    def go(self, job: str, number: int = 1) -> None:
        """Let a stage that is held come to its end."""
        (mark,) = self.hanging(job, number)
        mark.with_name("go").touch()

    def counted(self, job: str) -> list[int]:
        """List the steps that count, of all attempts."""
        found = []
        (run,) = self.outputs.runs_of(job)
        for attempt in self.of(job).attempts:
            metrics = run.attempt(attempt.number, attempt.token) / "metrics.jsonl"
            lines = metrics.read_text().splitlines() if metrics.exists() else []
            counts = range(attempt.first_step or 1, (attempt.last_step or 0) + 1)
            found += [step for line in lines if (step := json.loads(line)["step"]) in counts]
        return found
