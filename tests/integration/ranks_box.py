"""Turns a train stage of several ranks into real processes that need not import the stack anew.

The launcher is the product's own; only the way in which it starts a rank is replaced: by a fork of
the child that has imported the stack, where the product starts a fresh Python. `test_ranks` starts
one stage as the daemon does.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.contract.stage_io import PARENT

Trouble = Callable[[], None]


class Forked:
    """A forked rank, with what the launcher uses of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Give its status, once it has ended."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        """Wait for it."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


@dataclass(frozen=True)
class Ranks:
    """Arranges that ranks are forked, each with its own trouble."""

    trouble: Mapping[int, Trouble] = field(default_factory=dict)
    silent_seconds: float = 60.0

    def __call__(self) -> None:
        """Arrange it."""
        from runner.training.ranks import launch, silence

        silence.SILENT_SECONDS = self.silent_seconds
        launch.start_rank = self._start

    def _start(self, place: object, stage: str, folder: Path) -> Forked:
        from runner.training.ranks.place import Place, folder_of

        assert isinstance(place, Place)
        launcher = os.getpid()
        own = folder_of(folder, place.rank)
        own.root.mkdir(parents=True, exist_ok=True)
        pid = os.fork()
        if pid:
            (own.root / "pid").write_text(str(pid))
            return Forked(pid)
        status = 1
        try:
            status = self._be_the_rank(place, stage, folder, launcher)
        finally:
            os._exit(status)

    def _be_the_rank(self, place: object, stage: str, folder: Path, launcher: int) -> int:
        from runner.training.__main__ import main
        from runner.training.ranks.place import Place, folder_of

        assert isinstance(place, Place)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if place.rank:
            log = os.open(
                folder_of(folder, place.rank).log(stage), os.O_WRONLY | os.O_CREAT | os.O_APPEND
            )
            os.dup2(log, 1)
            os.dup2(log, 2)
        os.environ[PARENT] = str(launcher)
        if place.rank in self.trouble:
            self.trouble[place.rank]()
        return main([place.flag, stage, str(folder)])


def rank_pid(folder: Path, rank: int) -> int:
    """Give a forked rank's process id."""
    from runner.training.ranks.place import folder_of

    return int((folder_of(folder, rank).root / "pid").read_text())


def is_gone(pid: int) -> bool:
    """Whether no process has this id any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@dataclass(frozen=True)
class FromStep:
    """A signal that a rank sends itself once it has finished a step."""

    step: int
    signal: signal.Signals

    def __call__(self) -> None:
        """Arrange it."""
        from runner.training.fit.callbacks import Conduct

        inner = Conduct.on_log

        def on_log(conduct: Conduct, *given: Any, **more: Any) -> None:
            inner(conduct, *given, **more)
            if conduct.progress.step == self.step:
                os.kill(os.getpid(), self.signal)

        Conduct.on_log = on_log  # type: ignore[method-assign]


@dataclass(frozen=True)
class HeldOutTimes:
    """After some steps a rank's held-out rows have so many times their loss."""

    factors: Mapping[int, float]

    def __call__(self) -> None:
        """Arrange it."""
        from runner.training.fit.callbacks import Conduct

        inner = Conduct._measure

        def measure(conduct: Conduct, *given: Any, **more: Any) -> Any:
            found = inner(conduct, *given, **more)
            factor = self.factors.get(conduct.progress.step, 1.0)
            sums = tuple(factor * total for total in found.sums)
            return replace(found, sums=sums, loss=factor * found.loss)

        Conduct._measure = measure  # type: ignore[method-assign]


class LoadingFails:
    """Loading the base fails."""

    def __call__(self) -> None:
        """Arrange it."""
        from runner.training.fit import model

        def load_base(*_: Any, **__: Any) -> None:
            raise RuntimeError("Loading failed")

        model.load_base = load_base  # type: ignore[assignment]
