"""Stand by: a stage's process before it is told which stage it is; its imports are done then."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.contract.standing_by import STAND_BY, HandOver
from runner.contract.states import Stage
from runner.words import GIB

_LEAVES_BYTES = 4 * GIB
"""Free memory of the machine below which none is started: imported, it holds 0.8 GiB, and loading a
model wants all that there is for a while."""
_GIVEN_BACK_BYTES = 2 * GIB
"""Free memory of the machine below which one that is there ends: the kernel would sooner end the
stage or the program that takes what is left."""
_HOLDS_BYTES = GIB
_IMPORTS_SECONDS = 60.0  # 10 of one core, and several may import at once
_AGAIN_SECONDS = 600.0
"""After one that ended by itself, or was given back: neither what is broken nor memory that comes
and goes costs 10 s of a core each time."""
_END_SECONDS = 1.0
"""A process that waits within a driver or a file server does not end before that lets go of it: the
daemon's rounds go on, and the process ends when it can."""
_started: list[float] = []
"""Monotonic times of the latest starts in this process: what they will hold is not taken yet."""


class StandBy:
    """One process that imports, and then waits to be told which stage it is."""

    def __init__(self, stage_command: tuple[str, ...], environment: Mapping[str, str]) -> None:
        """Start it.

        Raises:
            OSError: it could not be started.
        """
        self._environment = dict(environment)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [*stage_command, STAND_BY],
                env=self._environment,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        _started.append(time.monotonic())

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    @property
    def is_there(self) -> bool:
        """Whether it lives; one that has ended is reaped."""
        return self._process.poll() is None

    def has(self, environment: Mapping[str, str]) -> bool:
        """Whether it has an environment: in a process that runs, nothing of that can be changed."""
        return dict(environment) == self._environment

    def become(
        self, stage: Stage, folder: Path, *, log: Path, inherited: tuple[int, ...] = ()
    ) -> subprocess.Popen[bytes] | None:
        """Make it a stage; None: it has ended, or its log cannot be written."""
        told = HandOver(daemon=os.getpid(), stage=stage.value, folder=str(folder))
        try:
            with self._ours, log.open("ab") as output:
                handed = [output.fileno(), *inherited]
                socket.send_fds(self._ours, [told.to_bytes()], handed)
        except OSError:
            self.end()
            return None
        return self._process

    def end(self) -> None:
        """End it: it has done nothing yet."""
        self._ours.close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)


@dataclass
class Seat:
    """Where one may stand by: for a card's next stage, or for the next run's rows."""

    process: StandBy | None = None
    empty_until: float = 0.0
    """Monotonic time before which none is started: the last one ended by itself, or was given back
    because memory was short."""

    def keep(
        self,
        stage_command: tuple[str, ...],
        environment: Mapping[str, str],
        *,
        at: float,
        is_wanted: bool,
    ) -> None:
        """Have one stand by, or none.

        Args:
            stage_command: how stages are started.
            environment: of the stage that it becomes.
            at: monotonic time.
            is_wanted: whether one is of use now.
        """
        there = self.process
        if there is not None and (not there.is_there or _free_bytes() < _GIVEN_BACK_BYTES):
            self.empty_until = at + _AGAIN_SECONDS
            self.end()
        elif not is_wanted or (there is not None and not there.has(environment)):
            self.end()
        if is_wanted and self.process is None and at >= self.empty_until and _has_room():
            with contextlib.suppress(OSError):  # the stage itself will be started without
                self.process = StandBy(stage_command, environment)

    def take(self, environment: Mapping[str, str]) -> StandBy | None:
        """Give the one that stands by, to become a stage that wants this environment.

        One with another is left to the next stage. One that has ended stays, too: who keeps the
        seat notes that it did, and tries none for a while.
        """
        if self.process is None or not self.process.is_there or not self.process.has(environment):
            return None
        ready, self.process = self.process, None
        return ready

    def end(self) -> None:
        """End whoever is there."""
        if self.process is not None:
            self.process.end()
            self.process = None


def _has_room() -> bool:
    """Whether the machine has memory for one more, after those that are still importing."""
    since = time.monotonic() - _IMPORTS_SECONDS
    _started[:] = [began for began in _started if began > since]
    return _free_bytes() - len(_started) * _HOLDS_BYTES >= _LEAVES_BYTES


def _free_bytes() -> int:
    """Read how much memory the machine has to give, in bytes; 0: it does not tell."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0
