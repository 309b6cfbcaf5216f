"""Turns a box, its drops and a list of kills into what was lost: nothing, if all is well."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from daemon_box import REPOSITORY, Box
from invariants import (
    all_of,
    changed,
    digest,
    leftovers,
    records,
    repeated,
    specs_lost,
    training_lost,
    unreadable_logs,
    untold,
)
from killing import ARMED, HITS, VISITS, children_of, cut_the_power, kill

from runner.contract.states import State

HERE = Path(__file__).parent
_DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from killing import listen
listen(Path({box!r}), "daemon")
{fault}
{rest}
"""

Side = Literal["daemon", "child"]
Victims = Literal["self", "other", "both", "launcher", "disk", "hang"]
"""``launcher``: of a rank of several, the process that started it."""


@dataclass(frozen=True, kw_only=True)
class AtPoint:
    """A kill at the ``index``-th visit of a point, or of any point, by one side."""

    side: Side
    victims: Victims
    index: int = 1
    point: str | None = None
    what: str | None = None
    disk: str | None = None
    """For victims "disk": the one that is filled."""
    room: int = 0
    """Megabytes that are left on it."""

    def __str__(self) -> str:
        where = f"{self.point} {self.what or ''}".strip() if self.point else "point"
        return f"{self.side} at {where} #{self.index}, victims: {self.victims}"


@dataclass(frozen=True, kw_only=True)
class AtTime:
    """A kill so many seconds after the daemon's start."""

    seconds: float
    victims: Literal["daemon", "child", "both"]

    def __str__(self) -> str:
        return f"{self.victims} after {self.seconds:.3f} s"


Kill = AtPoint | AtTime


class KillBox(Box):
    """A box with good jobs, a bad spec and the files of people."""

    stage = HERE / "fast_stage.py"
    life_seconds = 90.0  # a daemon that is not through by then hangs

    def __init__(self, root: Path, *, fault: str = "", jobs: int = 2) -> None:
        root.mkdir(parents=True, exist_ok=True)
        super().__init__(root)
        self.fault, self.good_jobs = fault, jobs
        self.reports = False
        """Whether reports are written, too: processes more, which kills meet as well."""
        self.keep_checkpoints = False
        """Whether those of runs that succeeded stay, for a test that looks at them."""
        self.dropped: dict[str, tuple[bytes, State]] = {}
        self.kills = 0
        self.fill()
        (self.jobs / "Übersicht 2026.docx").write_text("a person's own")
        (self.jobs / "old").mkdir()
        (self.jobs / "old" / "job0.yaml.bak").write_text("a person's own, too")
        self.personal = {
            path: digest(path)
            for path in self.jobs.rglob("*")
            if path.is_file() and path.suffix != ".yaml"
        }

    def fill(self) -> None:
        """Drop good specs and a bad one."""
        for name in (f"job{number}" for number in range(self.good_jobs)):
            (self.jobs / f"{name}.jsonl").write_text(f"rows of {name}")
            self.drop_bytes(name, f"model: m\ndata: {name}.jsonl\n", State.SUCCEEDED)
        self.drop_bytes("bad", "model: m\ndata: bad.jsonl\nepoch: 3\n", State.REJECTED)

    def drop_bytes(self, name: str, text: str, state: State) -> None:
        """Drop a spec and remember how it must end."""
        (self.jobs / f"{name}.yaml").write_text(text)
        self.dropped[f"{name}.yaml"] = (text.encode(), state)

    def settings(self) -> dict[str, Any]:
        """Give the settings of the daemon under test."""
        stage = [sys.executable, str(self.stage), str(self.root)]
        return {
            "stage_command": stage,
            "reports": self.reports,
            "keep_checkpoints": self.keep_checkpoints,
        }

    def command(self, **settings: Any) -> list[str]:
        """Build the daemon's command line, listening for armed kills."""
        python, flag, rest, given = super().command(**{**self.settings(), **settings})
        code = _DRIVER.format(here=str(HERE), box=str(self.root), fault=self.fault, rest=rest)
        return [python, flag, code, given]

    def arm(self, kills: list[AtPoint]) -> None:
        """Count from here, and kill there."""
        for name in ("visits-daemon", "visits-child"):
            (self.root / name).unlink(missing_ok=True)
        armed = [{k: v for k, v in asdict(one).items() if v is not None} for one in kills]
        (self.root / ARMED).write_text(json.dumps(armed))

    def all_visits(self) -> list[tuple[Side, str, str]]:
        """List the points that both sides have visited, in their order: side, point, what."""
        lines = (self.root / VISITS).read_text().splitlines()
        return [tuple(line.split("\t")) for line in lines]  # type: ignore[misc]

    def hits(self) -> list[str]:
        """List the armed kills that happened."""
        path = self.root / HITS
        return path.read_text().splitlines() if path.exists() else []

    def live(self, kills: list[Kill]) -> None:
        """Live through the kills, each in a daemon's life or in the rest of one, and to the end."""
        for one in kills:
            if isinstance(one, AtPoint):
                self.arm([one])
                self._run_until(None)
            else:
                self.arm([])
                self._run_until(one)
            self.after_kill()
        self.kills += len(self.hits())
        self.arm([])
        self._run_until(None)

    def after_kill(self) -> None:
        """Do to the box what a test wants between two lives."""

    def _run_until(self, timed: AtTime | None) -> None:
        """Run one daemon until it ends; kill at a time, where one is given."""
        with self.daemon() as daemon:
            try:
                if timed is not None:
                    try:
                        daemon.wait(timeout=timed.seconds)
                    except subprocess.TimeoutExpired:
                        self.kill_now(daemon.pid, timed.victims)
                daemon.wait(timeout=self.life_seconds)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"the daemon hangs: {self.root}") from None

    @contextmanager
    def daemon(self, **settings: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Run a daemon that works off what is there; what is left of it at the end is killed."""
        with (self.root / "daemon.out").open("ab") as output:
            daemon = subprocess.Popen(
                self.command(once=True, **settings),
                cwd=REPOSITORY,
                env=self.environment,
                stdout=output,
                stderr=output,
            )
        try:
            yield daemon
        finally:
            if daemon.poll() is None:
                self.kill_now(daemon.pid, "both", counted=False)
            daemon.wait()

    def kill_now(self, daemon: int, victims: str, *, counted: bool = True) -> None:
        """Kill the daemon, its children or both."""
        pids = children_of(daemon) if victims == "child" else [daemon]
        if victims == "both":
            cut_the_power(daemon)
        else:
            for pid in pids:
                kill(pid)
        self.kills += counted and bool(pids)

    def lost(self) -> list[str]:
        """Say what is not as it must be."""
        found, unreadable = records(self.outputs)
        again, _ = repeated(self.root / "journal")
        return all_of(
            [
                unreadable,
                specs_lost(self.jobs, self.outputs, self.dropped),
                *(training_lost(self.jobs, run, record) for run, record in found),
                untold(self.outputs, found),
                again,
                changed(self.personal),
                leftovers(self.jobs, self.outputs.root),
                unreadable_logs(self.outputs.root),
            ]
        )

    @property
    def steps_repeated(self) -> int:
        """How many steps ran again because no checkpoint covered them."""
        return repeated(self.root / "journal")[1]


def draw(seed: int, *, daemon_points: int, child_points: int, seconds: float) -> list[Kill]:
    """Draw two kills: at any visit of either side, or at any time; of the daemon, child or both."""
    source = random.Random(seed)
    kills: list[Kill] = []
    for _ in range(2):
        if source.random() < 0.3:
            victims: Any = source.choice(["daemon", "child", "both"])
            kills.append(AtTime(seconds=source.uniform(0.3, seconds), victims=victims))
        elif source.random() < 0.5:
            index = source.randint(1, daemon_points)
            kills.append(
                AtPoint(side="daemon", index=index, victims=source.choice(["self", "both"]))
            )
        else:
            index = source.randint(1, child_points)
            kills.append(
                AtPoint(side="child", index=index, victims=source.choice(["self", "other", "both"]))
            )
    return kills
