"""A form that serves a result is whole under its final name, wherever the power goes off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.training.export.put_in_place import beside, put_in_place

WRITES = """
import os, sys
from pathlib import Path
from runner.files import crash_points
from runner.training.export.put_in_place import beside, put_in_place
root, point = Path(sys.argv[1]), sys.argv[2]
crash_points.install(lambda reached, what: os._exit(9) if reached == point else None)
with beside(root) as folder:
    new = folder / "merged"
    new.mkdir()
    (new / "a").write_text("new")
    (new / "b").write_text("new")
    put_in_place(new, root / "merged")
"""


@pytest.mark.parametrize(
    ("point", "left"),
    [
        ("form begun", "old"),
        ("form synced", "old"),
        ("form set aside", None),
        ("form named", "new"),
    ],
)
def test_it_is_whole_or_not_there(tmp_path: Path, point: str, left: str | None) -> None:
    """The old one, the new one or none: never a part, and what is left beside has another name."""
    old = tmp_path / "merged"
    old.mkdir()
    for name in ("a", "b"):
        (old / name).write_text("old")
    ended = subprocess.run([sys.executable, "-c", WRITES, str(tmp_path), point], check=False)
    assert ended.returncode == 9
    if left is None:
        assert not old.exists()
    else:
        assert [(old / name).read_text() for name in ("a", "b")] == [left, left]
    assert all(name == "merged" or name.startswith(".") for name in os.listdir(tmp_path))


def test_nothing_is_left_beside(tmp_path: Path) -> None:
    """A file takes its place in a folder that did not exist; the one beside is gone."""
    with beside(tmp_path) as folder:
        (folder / "job-f16.gguf").write_text("x")
        put_in_place(folder / "job-f16.gguf", tmp_path / "gguf" / "job-f16.gguf")
    assert os.listdir(tmp_path) == ["gguf"]
