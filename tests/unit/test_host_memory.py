"""Who killed the child: the kernel for want of memory, or somebody else."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.daemon.stages import end
from runner.daemon.stages.host_memory import Blame, blame, kernel_kills
from runner.daemon.stages.process import Child
from runner.exit_codes import ExitCode

EVENTS = "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n"


@pytest.mark.parametrize(
    ("files", "count"),
    [
        (
            {
                "proc/self/cgroup": "0::/system.slice/runner.service\n",
                "sys/fs/cgroup/system.slice/runner.service/memory.events": EVENTS,
                "proc/vmstat": "oom_kill 9\n",
            },
            2,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.events": EVENTS}, 2),
        ({"proc/self/cgroup": "0::/../other\n", "sys/fs/cgroup/memory.events": EVENTS}, 2),
        (
            {
                "proc/self/cgroup": "5:cpu:/\n4:memory:/docker/abc\n0::/\n",
                "sys/fs/cgroup/memory/docker/abc/memory.oom_control": "under_oom 0\noom_kill 4\n",
            },
            4,
        ),
        ({"proc/self/cgroup": "0::/\n", "proc/vmstat": "nr_free 5\noom_kill 9\n"}, 9),
        ({"proc/vmstat": "nr_free 5\n"}, None),
    ],
    ids=["service", "container", "path of the host", "cgroup v1", "whole machine", "silent"],
)
def test_the_count_is_found(tmp_path: Path, files: dict[str, str], count: int | None) -> None:
    """On every kind of host the kernel's own count is read where it stands."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert kernel_kills(tmp_path) == count


@pytest.mark.parametrize(
    ("status", "before", "after", "beside", "answer"),
    [
        (-signal.SIGKILL, 2, 3, 0, Blame.YES),
        (-signal.SIGKILL, 2, 2, 0, Blame.NO),  # a person, or the daemon itself
        (-signal.SIGTERM, 2, 3, 0, Blame.NO),
        (1, 2, 3, 0, Blame.NO),
        (-signal.SIGKILL, None, None, 0, Blame.NO),
        (-signal.SIGKILL, 2, 3, 1, Blame.ONE_OF_SEVERAL),  # two ended so, and it killed one
        (-signal.SIGKILL, 2, 4, 1, Blame.YES),  # it killed both
        (-signal.SIGKILL, 2, 4, 2, Blame.ONE_OF_SEVERAL),
        (-signal.SIGKILL, 2, 2, 1, Blame.NO),
    ],
)
def test_a_kill_is_the_kernels_only_when_it_counted_one(
    status: int,
    before: int | None,
    after: int | None,
    beside: int,
    answer: Blame,
) -> None:
    """A SIGKILL alone says nothing about memory, and one kill is not blamed on two stages."""
    assert blame(status, before=before, after=after, also_killed=beside) is answer


def test_a_real_kill_is_counted() -> None:
    """Where this machine lets us make a cgroup: the kernel kills a child, and the count rises."""
    child = (
        "import os, sys\n"
        "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "from runner.daemon.stages.host_memory import kernel_kills\n"
        "print(kernel_kills(), flush=True)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os.setsid(); b'x' * (512 << 20)\n"
        "_, status = os.waitpid(pid, 0)\n"
        "print(kernel_kills(), os.WTERMSIG(status))\n"
    )
    group = Path("/sys/fs/cgroup/memory") / f"runner-test-{secrets.token_hex(4)}"
    limits = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    if not group.parent.is_dir():
        group = Path("/sys/fs/cgroup") / group.name
        limits = ("memory.max", "memory.swap.max")
    try:
        group.mkdir()
        (group / limits[0]).write_text(str(64 << 20))
    except OSError as error:
        pytest.skip(f"no cgroup can be made here ({error.strerror})")
    try:
        if (group / limits[1]).exists():
            (group / limits[1]).write_text("0" if "swap" in limits[1] else str(64 << 20))
        done = subprocess.run(
            [sys.executable, "-c", child, str(group / "cgroup.procs")],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    finally:
        group.rmdir()
    before, after, number = (int(word) for word in done.stdout.split())
    assert blame(-number, before=before, after=after) is Blame.YES


class Stage:
    """A run with a real child, as far as the end of one asks for it."""

    def __init__(self, folder: Path) -> None:
        """Begin when the kernel had killed two processes."""
        process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        self.child = Child(process, folder=folder, on_exit=lambda: None)
        self.kernel_kills, self.meant, self.doubt, self.stage = 2, None, "", "train"
        self.record = SimpleNamespace(job="contracts")

    def is_killed(self) -> None:
        """End it as the kernel does, and as a person does."""
        os.kill(self.child.pid, signal.SIGKILL)
        assert self.child.wait(60)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[Stage]]:
    """Two stages at work side by side."""
    stages = [Stage(tmp_path) for _ in range(2)]
    yield stages
    for one in stages:
        one.child.kill()
        one.child.poll()


def judged(stages: list[Stage], which: int, monkeypatch: pytest.MonkeyPatch, kills: int) -> int:
    """Say what the end of one of them is taken for, when the kernel has killed so many."""
    monkeypatch.setattr(end, "kernel_kills", lambda: kills)
    runs = {str(number): one for number, one in enumerate(stages)}
    daemon: Any = SimpleNamespace(book=SimpleNamespace(runs=runs), say=lambda *_, **__: None)
    one: Any = stages[which]
    return end._meant(daemon, one, one.child.poll())


def test_of_two_that_end_at_once_none_is_blamed_for_one_kill(
    two: list[Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel killed one and does not say which: both were ended by SIGKILL, and say so."""
    for one in two:
        one.is_killed()
    assert [judged(two, which, monkeypatch, 3) for which in (0, 1)] == [-signal.SIGKILL] * 2
    assert all("does not tell which" in one.doubt for one in two)


def test_of_two_kills_each_is_blamed_on_one(
    two: list[Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It killed as many as have ended: both ran out of the machine's memory."""
    for one in two:
        one.is_killed()
    ends = [judged(two, which, monkeypatch, 4) for which in (0, 1)]
    assert ends == [ExitCode.OUT_OF_HOST_MEMORY] * 2


def test_a_kill_that_one_is_blamed_for_is_not_held_against_the_other(
    two: list[Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person ends the second one an hour later: that is no lack of memory."""
    two[0].is_killed()
    assert judged(two, 0, monkeypatch, 3) == ExitCode.OUT_OF_HOST_MEMORY
    two[1].is_killed()
    assert judged(two[1:], 0, monkeypatch, 3) == -signal.SIGKILL
    assert two[1].doubt == ""
