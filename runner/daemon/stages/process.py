"""Child process: started in a process group of its own, and that whole group ended.

A stop is: ask (SIGTERM to the child), wait for a named time, then SIGKILL to the whole group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from runner.clock import this_boot
from runner.contract.stage_io import STACK_SIGNAL
from runner.files.crash_points import reached
from runner.files.socket_folder import sweep_socket_folders

PID_FILE = "process"
"""In the stage's folder: pid, start time in the kernel's ticks, and the machine's start."""


def _start_time(pid: int) -> str | None:
    """Tell when a process began, in the kernel's ticks; with the pid it names one process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[19] if len(fields) > 19 else None


def start_stage(
    argv: list[str], *, environment: Mapping[str, str], log: Path, inherited: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    """Start a stage's process.

    ``inherited`` are descriptors that it gets: a lock among them is held as long as the child or
    any of its helpers lives, whatever becomes of the daemon.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=inherited,
        )


class Child:
    """One running stage."""

    def __init__(
        self, process: subprocess.Popen[bytes], *, folder: Path, on_exit: Callable[[], None]
    ) -> None:
        """Take over a process; ``on_exit`` is called from another thread when it has ended."""
        self._process = process
        self.pid = process.pid
        reached("stage started")
        with contextlib.suppress(OSError):  # a full disk: the child runs all the same
            (folder / PID_FILE).write_text(f"{self.pid} {_start_time(self.pid)} {this_boot()}\n")
        self._ended = threading.Event()
        self._kill_at: float | None = None
        threading.Thread(target=self._watch, args=(on_exit,), daemon=True).start()

    def _watch(self, on_exit: Callable[[], None]) -> None:
        # WNOWAIT leaves the child to be reaped by ``poll``, after its group has been killed: until
        # then its pid, and so its group's number, cannot be given to anybody else.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self._ended.set()
        on_exit()

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, be that recorded or not."""
        return self._ended.is_set()

    @property
    def is_stopping(self) -> bool:
        """Whether it has been asked to stop."""
        return self._kill_at is not None

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended, for so long at most; tell whether it has."""
        return self._ended.wait(seconds)

    def poll(self) -> int | None:
        """Give the exit status once the child has ended; helpers it left behind are killed."""
        if not self._ended.is_set():
            return None
        self.kill()
        status = self._process.wait()
        sweep_socket_folders()  # where it was killed, it has left one
        return status

    def ask_to_stop(self, *, at: float, grace_seconds: float) -> None:
        """Ask once; ``enforce`` kills when the grace is over."""
        if self._kill_at is None:
            self._kill_at = at + grace_seconds
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGTERM)

    def ask_for_stack(self) -> None:
        """Ask where it stands: a stage writes the stacks of all its threads to its log."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, STACK_SIGNAL)

    def enforce(self, at: float) -> None:
        """Kill the group if it was asked to stop and its time is over."""
        if self._kill_at is not None and at >= self._kill_at:
            self.kill()

    def kill(self) -> None:
        """Kill the whole group now."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
