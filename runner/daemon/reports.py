"""Reports: the daemon says which run's page is due; a short-lived process writes it.

Nothing waits for that process: one that hangs is ended, one that fails is logged once, and the run
goes on in any case. Due is a page at each change of state, and once a minute while a run trains.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from typing import IO

from runner.contract.layout import RunFolder
from runner.contract.record import RunRecord
from runner.contract.settings import Settings
from runner.contract.states import State
from runner.files.beneath import Folder
from runner.words import visible

RENEW_SECONDS = 60.0  # while a run trains: people reload no more often, and a page costs 1 s of CPU
LIMIT_SECONDS = 60.0  # a process takes 1 s and 0.1 s more a run; a share that holds it is given up
_KILL_SECONDS = 0.05  # the loop waits so long for one that was killed
_AT_ONCE = 20  # runs written by one process: its start costs more than they do
_LAST_SECONDS = 2.0  # a daemon that was asked to leave waits so long for the page being written
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LC_MESSAGES", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH")
_LINES = 3  # of its problems: one disk is full for all
_SAID_BYTES = 4096  # of what a process says


class Reports:
    """Which pages are due, and the process that writes some of them."""

    def __init__(self, settings: Settings, *, say: Callable[..., None]) -> None:
        """Begin with nothing due; ``say`` writes into the daemon's log."""
        self.settings = settings
        self._say = say
        self._due: dict[str, str] = {}
        """Run id → job."""
        self._index_due = False
        self._shown: dict[str, tuple[State, float]] = {}
        """Run id → the state that its newest page shows, and when it was asked for."""
        self._child: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None
        self._kill_at = 0.0
        self._problems = ""

    @property
    def is_busy(self) -> bool:
        """Whether a page is due or being written."""
        return bool(self._due or self._index_due or self._child)

    def want(self, record: RunRecord, at: float) -> None:
        """Note that a run's page is due, if it is."""
        if not self.settings.reports or _says_nothing(record):
            return
        state, when = self._shown.get(record.run_id, (None, 0.0))
        if record.state.is_final:
            self._shown.pop(record.run_id, None)
            self._due[record.run_id] = record.job
            self._index_due = True
        elif state != record.state or (
            record.state is State.TRAINING and at - when >= RENEW_SECONDS
        ):
            self._shown[record.run_id] = (record.state, at)
            self._due[record.run_id] = record.job

    def want_missing(self, ended: Iterable[RunRecord], at: float) -> None:
        """Ask again for pages that the last daemon did not come to."""
        for record in ended:
            if _is_older(self.settings.outputs.run(record.job, record.run_id)):
                self.want(record, at)

    def go_on(self, at: float, inbox: Folder | None) -> None:
        """See to the process that writes, and start another one for what is due."""
        if self._child is not None and not self._has_ended(self._child, at):
            return
        if self._due or self._index_due:
            try:
                self._start(at, inbox)
            except OSError as error:  # no memory or process to spare: tried in the next round
                if self._said is not None:
                    self._said.close()
                    self._said = None
                self._tell([f"no process can be started for them ({error.strerror or error})"])

    def _has_ended(self, child: subprocess.Popen[bytes], at: float) -> bool:
        if child.poll() is None:
            if at < self._kill_at:
                return False
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_KILL_SECONDS)
            if child.poll() is None:
                return False  # held by a share that does not answer: looked at again later
        self._child = None
        said = b""
        if self._said is not None:
            with self._said as file:
                file.seek(0)
                said = file.read(_SAID_BYTES)
            self._said = None
        lines = said.decode(errors="replace").splitlines()[:_LINES]
        if child.returncode < 0:
            lines.append("the process that writes them was ended")
        self._tell(lines if child.returncode else [])
        return True

    def _tell(self, lines: Sequence[str]) -> None:
        """Log what went wrong, once for each kind of trouble."""
        problems = visible("; ".join(lines))
        if problems and problems != self._problems:
            self._say(f"reports could not be written: {problems}", level="warning")
        self._problems = problems

    def _start(self, at: float, inbox: Folder | None) -> None:
        settings = self.settings
        runs = list(self._due.items())[:_AT_ONCE]
        command = [*settings.report_command, str(settings.outputs_dir)]
        command += [f"{job}/{run_id}" for run_id, job in runs]
        command += [f"--language={settings.language}", f"--share-name={settings.share_name}"]
        command += [] if inbox is None else [f"--inbox={inbox.descriptor}"]
        command += ["--index"] if self._index_due else []
        # In memory: a full or read-only disk must not keep a report from saying so.
        self._said = open(os.memfd_create("report"), "w+b")  # noqa: SIM115  closed at its end
        self._child = subprocess.Popen(
            command,
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=() if inbox is None else (inbox.descriptor,),
        )
        self._kill_at = at + LIMIT_SECONDS
        for run_id, _ in runs:
            del self._due[run_id]
        self._index_due = False

    def finish(self, inbox: Folder | None) -> None:
        """Before leaving: with ``once`` write what is due; else end the process soon."""
        once = self.settings.once
        until = time.monotonic() + (LIMIT_SECONDS if once else _LAST_SECONDS)
        if not once:
            self._due, self._index_due = {}, False
        while self.is_busy and time.monotonic() < until:
            self.go_on(time.monotonic(), inbox)
            time.sleep(0.02)
        if self._child is not None:
            self._kill_at = 0.0
            self._has_ended(self._child, time.monotonic())


def _says_nothing(record: RunRecord) -> bool:
    """Whether a run only waits for its turn: ten thousand may, and the answer says so already."""
    return record.state is State.QUEUED and record.total_steps is None


def _is_older(run: RunFolder) -> bool:
    """Whether a run's page is missing, or older than its record."""
    try:
        shown = os.stat(run.report, follow_symlinks=False).st_mtime_ns
        return shown < os.stat(run.record, follow_symlinks=False).st_mtime_ns
    except OSError:
        return True
