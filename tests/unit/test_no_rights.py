"""Folders of the box that belong to somebody else: a sentence and a way from every command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

OTHER = 12345
"""A user that the tests are not."""
WITHOUT_RIGHTS = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
"""Root without its capabilities may open what others may: nothing in a folder of mode 0700."""


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """Make a box with a run, and a spec beside it."""
    run = tmp_path / "outputs" / "job" / "20261123T221005Z-k3f9"
    for folder in (run, tmp_path / "outputs" / ".runner", tmp_path / "jobs", tmp_path / "models"):
        folder.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (tmp_path / "my.yaml").write_text("model: m\ndata: rows.jsonl\n")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    return tmp_path


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root, to give folders away"
)
def test_every_command_says_what_it_may_not_use(box: Path) -> None:
    """The wrong PUID: each command names the folder, its owner and what to do; none falls over."""
    folders = [box / name for name in ("jobs", "outputs", "models")]
    for folder in folders:
        os.chown(folder, OTHER, OTHER)
        folder.chmod(0o700)
    jobs, outputs, models = ([f"--{folder.name}-dir", str(folder)] for folder in folders)
    spec = str(box / "my.yaml")
    commands = {
        "status": outputs,
        "show": ["job", *outputs],
        "logs": ["job", *outputs],
        "cancel": ["job", *outputs],
        "submit": [spec, *jobs, *outputs],
        "try": ["job", "-q", "x", *outputs, *models],
        "plan": [spec, *jobs, *outputs, *models],
        "preview": [spec, *models],
        "check": [spec, *models],
        "validate": [spec, *models],
        "watch": ["--once", "--device", "cpu", *jobs, *outputs, *models],
        "fetch": ["demo", *models],
        "demo": [*jobs, *outputs, *models],
        "doctor": ["--device", "cpu", *jobs, *outputs, *models],
        "health": outputs,
    }
    running = {
        name: subprocess.Popen(
            [*WITHOUT_RIGHTS, sys.executable, "-m", "runner.cli", name, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, words in commands.items()
    }
    for name, child in running.items():
        said, _ = child.communicate(timeout=200)
        assert child.returncode == 1, (name, said)
        assert "Traceback" not in said, (name, said)
        if name == "health":
            assert said == "not well: the heartbeat cannot be read\n"
        elif name == "doctor":
            assert "No job could run yet" in said
        else:
            assert f"it belongs to {OTHER}:{OTHER} (mode 0700)" in said, (name, said)
            assert "How to fix: PUID and PGID in .env" in said
