"""Folders of sockets: none outlives its maker, and none that is in use or a stranger's goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from runner.daemon.stages.process import Child, start_stage
from runner.files.socket_folder import socket_path, sweep_socket_folders

MAKER = """
import time
from runner.files.socket_folder import socket_path
with socket_path() as place:
    place.touch()
    print(place, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_private_and_goes_afterwards(temporary: Path) -> None:
    """The path is short enough for the kernel wherever the system keeps temporary files."""
    with socket_path() as place:
        assert place.parent.stat().st_mode & 0o777 == 0o700
        assert len(str(place)) - len(str(temporary)) < 40
        sweep_socket_folders()
        assert place.parent.is_dir()  # in use
    assert list(temporary.iterdir()) == []


def test_what_is_not_ours_stays(temporary: Path) -> None:
    """Another program's folder, one with files that we never make, a link."""
    (temporary / "llama-1234").mkdir()
    odd = temporary / "rsock-odd"
    odd.mkdir()
    (odd / "file").touch()
    (temporary / "rsock-link").symlink_to(temporary / "llama-1234")
    before = sorted(temporary.rglob("*"))
    sweep_socket_folders()
    assert sorted(temporary.rglob("*")) == before


def test_a_killed_stage_leaves_none(temporary: Path) -> None:
    """The daemon removes it as soon as it sees the stage's end."""
    log = temporary / "log"
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = start_stage([sys.executable, "-c", MAKER], environment=environment, log=log)
    child = Child(process, folder=temporary, on_exit=lambda: None)
    while not log.read_text():
        assert not child.wait(0.05)
    assert len(list(temporary.glob("rsock-*/s.sock"))) == 1
    child.kill()
    assert child.wait(60)
    assert child.poll() == -signal.SIGKILL
    assert list(temporary.glob("rsock-*")) == []


def test_who_is_overtaken_by_a_sweep_makes_another(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a folder's making and its lock it looks like one that was left."""
    sound, made = tempfile.mkdtemp, []

    def mkdtemp(*, prefix: str) -> str:
        found = sound(prefix=prefix)
        made.append(found)
        if len(made) == 1:
            subprocess.run(["rmdir", found], check=True)
        return found

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with socket_path() as place:
        assert place.parent.is_dir()
    assert len(made) == 2
    assert list(temporary.iterdir()) == []
