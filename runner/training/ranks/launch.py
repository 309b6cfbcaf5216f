"""Launch: one training process for each card, watched as one stage with one exit status.

The stage's own process is the launcher: it imports no torch, starts the ranks in its process group,
passes a stop on to them, ends the others when one has ended badly or hangs, and turns their exit
statuses into one. No torchrun: that hides exit statuses and kills after 30 seconds.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from runner.contract.layout import StageFolder
from runner.contract.stage_io import PARENT, STACK_SIGNAL
from runner.exit_codes import ExitCode
from runner.files.durable import write_json
from runner.training.ranks.one_end import blamed, one_result
from runner.training.ranks.place import Place, folder_of
from runner.training.ranks.silence import Silence

GRACE_SECONDS = 120.0
"""For the others to leave, once one has ended badly: the first may be writing a checkpoint. It is
what the daemon gives a stage, by default."""
LOOK_SECONDS = 0.2
STACK_SECONDS = 2.0
"""From the question for its stack to the end of a rank that hangs."""
LINES_SHOWN = 40  # of the failed rank's log, in the stage's
_BYTES_SHOWN = 64 * 1024  # of its end: a library may have written gigabytes of warnings


def start_rank(place: Place, stage: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start one rank, with the one card that is its own.

    Its command line ends in the stage and its folder, by which a later daemon finds orphans.
    """
    environment = {**os.environ, PARENT: str(os.getpid()), **_cards(place.rank)}
    own = folder_of(folder, place.rank)
    own.root.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as opened:
        log = opened.enter_context(own.log(stage).open("ab")) if place.rank else None
        return subprocess.Popen(
            [sys.executable, "-m", "runner.training", place.flag, stage, str(folder)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # What the daemon handed on, its cards' locks, is inheritable: held while a rank lives.
            close_fds=False,
        )


def _cards(rank: int) -> dict[str, str]:
    """Give what a rank's environment says of cards and of the way to the other ranks.

    They are on one machine, and a container has no network: loopback must do. The memory that
    NVLink's multicast wants is not worth it for the few gradients of an adapter.
    """
    found = {"NCCL_SOCKET_IFNAME": "lo", "NCCL_NVLS_ENABLE": "0"}
    cards = [one.strip() for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if rank < len(cards) and cards[rank]:
        found["CUDA_VISIBLE_DEVICES"] = cards[rank]
    return found


def launch(stage: str, folder: Path, size: int) -> int:
    """Train with so many ranks, and leave one result.

    Returns:
        The stage's exit status; negative: the signal that ended a rank, as if it had ended this.
    """
    shutil.rmtree(StageFolder(folder).ranks, ignore_errors=True)
    meeting = Path(
        tempfile.mkdtemp(prefix="ranks-")
    )  # not in the run's folder: that may be a share
    crew = _Crew()
    try:
        for rank in range(size):
            place = Place(rank=rank, size=size, meeting=meeting / "meeting")
            crew.ranks.append(start_rank(place, stage, folder))
        _watch(crew, [folder_of(folder, rank).metrics for rank in range(size)])
    finally:
        crew.kill()
        shutil.rmtree(meeting, ignore_errors=True)
    return _one_end(crew, stage, folder)


class _Crew:
    """The ranks' processes."""

    def __init__(self) -> None:
        self.ranks: list[subprocess.Popen[bytes]] = []
        self.asked = False
        self.hung: int | None = None
        self.ended: dict[int, int] = {}
        """Exit statuses of those that ended by themselves."""
        self._killed: set[int] = set()
        self._asked: set[int] = set()
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)
        faulthandler.unregister(STACK_SIGNAL)
        signal.signal(STACK_SIGNAL, lambda *_: self.tell(STACK_SIGNAL))

    @property
    def is_done(self) -> bool:
        """Whether the first rank has ended well: all that the run keeps is written."""
        return self.ended.get(0) == ExitCode.OK

    def _ask(self, *_: Any) -> None:
        self.asked = True
        self.tell(signal.SIGTERM)

    def tell(self, number: int) -> None:
        """Send a signal to all ranks that still run; a stop to each once."""
        for rank, process in enumerate(self.ranks):
            if number == signal.SIGTERM:
                if rank in self._asked:
                    continue  # a second one could meet it as it leaves, and end it
                self._asked.add(rank)
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def kill(self, *only: int) -> None:
        """End ranks now: all that still run, or some."""
        for rank, process in enumerate(self.ranks):
            if process.poll() is None and (not only or rank in only):
                self._killed.add(rank)
                process.kill()
                process.wait()
        self.look()

    def look(self) -> bool:
        """Note who has ended; whether all have."""
        for rank, process in enumerate(self.ranks):
            status = process.poll()
            ours = rank in self._killed or (rank in self._asked and status == -signal.SIGTERM)
            if status is not None and not ours:
                self.ended.setdefault(rank, status)
        return all(process.poll() is not None for process in self.ranks)


def _watch(crew: _Crew, signs: list[Path]) -> None:
    """Wait until all have ended; end those that cannot go on."""
    silence, kill_at = Silence(), None
    while not crew.look():
        if crew.asked:  # it may have come while they were being started
            crew.tell(signal.SIGTERM)
        at = time.monotonic()
        if kill_at is None and any(crew.ended.values()):
            kill_at = at + GRACE_SECONDS
            crew.tell(signal.SIGTERM)  # without the one that ended, none can finish a step
        if kill_at is None and crew.is_done:
            kill_at = at + GRACE_SECONDS  # all has been written; a card's driver may not let go
        if kill_at is not None and at >= kill_at:
            crew.kill()
            return
        hung = silence.look([_shown(path) for path in signs], at, ended=crew.ended)
        if hung is not None and kill_at is None:
            _end_hung(crew, hung)
        time.sleep(LOOK_SECONDS)


def _end_hung(crew: _Crew, rank: int) -> None:
    crew.hung = rank
    print(f"Rank {rank} stands still; it is ended. Where all stood:", flush=True)
    crew.tell(STACK_SIGNAL)
    time.sleep(STACK_SECONDS)
    crew.kill(rank)
    crew.ended[rank] = ExitCode.UNEXPECTED


def _shown(metrics: Path) -> int:
    """Tell when a rank last showed life; 0: it has not finished a step."""
    with contextlib.suppress(OSError):
        found = metrics.stat()
        return found.st_mtime_ns if found.st_size else 0
    return 0


def _one_end(crew: _Crew, stage: str, folder: Path) -> int:
    if not crew.ended:  # asked before they could listen, or none left in time
        return -signal.SIGTERM if crew.asked else -signal.SIGKILL
    ends = crew.ended
    rank = blamed(ends, asked=crew.asked)
    code = ends[rank]
    if code == ExitCode.OK and not crew.is_done:
        return -signal.SIGKILL  # the first did not leave in time
    if code != ExitCode.OK:
        how = "stood still" if rank == crew.hung else f"ended with {code}"
        print(f"Rank {rank} of {len(crew.ranks)} {how}.", flush=True)
    for other, status in ends.items():
        if code == ExitCode.OK and status != ExitCode.OK:
            print(f"Rank {other} ended with {status}, when all was written.", flush=True)
    if code == ExitCode.OK or (rank == 0 and rank != crew.hung):
        return code
    left = None
    if rank:
        _show_log(folder_of(folder, rank).log(stage))
        left = _read(folder_of(folder, rank).result)
    if rank == crew.hung:
        message = f"The training process of card {rank + 1} stood still and was ended."
        advice = "If it happens again, run `runner doctor`."
        left = {"error": {"kind": "hung", "message": message, "advice": advice}}
        first = _read(folder_of(folder, 0).result)
        left = {**first, "outcome": "failed", **left} if first and "outcome" in first else left
    path = folder_of(folder, 0).result
    found = one_result(_read(path), left)
    if found is None:
        path.unlink(missing_ok=True)
    else:
        write_json(path, found)
    return code


def _read(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else None
    return None


def _show_log(path: Path) -> None:
    with contextlib.suppress(OSError):
        with path.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _BYTES_SHOWN))
            lines = log.read(_BYTES_SHOWN).decode(errors="replace").splitlines()
        print(*lines[-LINES_SHOWN:], sep="\n", flush=True)
