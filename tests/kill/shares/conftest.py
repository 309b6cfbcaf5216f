"""Gives each test a box whose inbox is a share, once for each kind that can be had here."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

for folder in (Path(__file__).parents[1], Path(__file__).parents[2] / "integration"):
    sys.path.insert(0, str(folder))

from served import KINDS, Served  # noqa: E402 - found through the line above
from share_box import ShareBox  # noqa: E402

HERE = os.environ.get("RUNNER_TEST_SHARES", "local,fuse").split(",")
"""Kinds to test; smb and nfs only in a machine of their own, see test_real_servers.py."""


@pytest.fixture(params=HERE)
def kind(request: pytest.FixtureRequest) -> str:
    """Name a kind of share that can be had here."""
    name = str(request.param)
    if name == "fuse" and (shutil.which("bindfs") is None or not Path("/dev/fuse").exists()):
        pytest.skip("NO FUSE HERE: it needs /dev/fuse and the Debian package bindfs")
    return name


@pytest.fixture
def served(kind: str, tmp_path: Path) -> Iterator[Served]:
    """Serve an inbox."""
    share = KINDS[kind](tmp_path / "share", tmp_path / "box" / "jobs")
    share.start()
    try:
        yield share
    finally:
        share.stop()


@pytest.fixture
def box(served: Served, tmp_path: Path) -> Iterator[ShareBox]:
    """Give an empty box over the share; what its daemon said is shown where a test fails."""
    share_box = ShareBox(tmp_path / "box", served)
    yield share_box
    if (share_box.root / "daemon.out").exists():
        print(share_box.said())
