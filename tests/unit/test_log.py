"""The daemon's log: months of uptime fill no disk with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.daemon import log as module
from runner.daemon.log import Log
from runner.files.durable import Kept


def test_the_daemons_log_is_set_aside_when_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many files of so many bytes, the newest line in the one that has the log's name.

    A run's own log ends with the run and is kept whole.
    """
    monkeypatch.setattr(module, "KEPT", Kept(bytes=2000, files=3))
    path, of_run = tmp_path / "daemon.jsonl", tmp_path / "log.jsonl"
    log = Log(path)
    for number in range(200):
        log.say("an event", number=number, run_log=of_run)
    files = sorted(tmp_path.glob("daemon.jsonl*"))
    assert [file.name for file in files] == ["daemon.jsonl", "daemon.jsonl.1", "daemon.jsonl.2"]
    assert all(file.stat().st_size < 2200 for file in files)
    lines = path.read_text().splitlines() or files[1].read_text().splitlines()
    assert json.loads(lines[-1])["number"] == 199
    assert len(of_run.read_text().splitlines()) == 200


def test_what_is_kept_of_the_daemons_log_is_bounded() -> None:
    """A few tens of megabytes: they fit beside the smallest run."""
    assert module.KEPT.bytes * module.KEPT.files <= 64 * 1024**2
