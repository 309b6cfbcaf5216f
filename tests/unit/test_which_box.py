"""A command on the host says which box it looks at when nobody watches it."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.commands.which_box import Watcher, describe, hint
from runner.contract.layout import Outputs
from runner.files.lock import Lock


def test_a_box_whose_daemon_runs_needs_no_word(tmp_path: Path) -> None:
    """The usual case stays quiet."""
    outputs = Outputs(tmp_path)
    outputs.private.mkdir()
    lock = Lock.take(outputs.lock, what="The box")
    assert hint(outputs) == ""
    lock.release()


def test_a_container_that_watches_another_box_is_named(tmp_path: Path) -> None:
    """Somebody who looks for a job in the wrong box learns where the other one is."""
    said = describe(tmp_path / "outputs", (Watcher(name="b-runner-1", outputs="/srv/b/outputs"),))
    assert f"No daemon watches the box of {tmp_path}/outputs." in said
    assert "b-runner-1 watches another box: /srv/b." in said
    assert "docker exec b-runner-1 runner status" in said


def test_a_container_that_watches_this_box_is_no_other(tmp_path: Path) -> None:
    """Seen through a link it is still the same folder."""
    (tmp_path / "outputs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "outputs")
    said = describe(tmp_path / "link", (Watcher(name="r", outputs=str(tmp_path / "outputs")),))
    assert "another box" not in said


def test_an_engine_that_does_not_answer_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The hint is a courtesy: no Docker, no error."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert "docker compose up -d" in hint(Outputs(tmp_path))
