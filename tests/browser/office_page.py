"""A box whose page a browser looks at: the real server on loopback, and the real daemon."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Office:
    """The page of a box."""

    folder: Path
    address: str

    @property
    def key(self) -> str:
        return (self.folder / "page" / "key").read_text().strip()


def _started(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    with (folder / f"{words[0]}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "runner.cli", *words],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )


@contextlib.contextmanager
def process(folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of the runner in a box until the block ends."""
    started = _started(folder, *words)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(60)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextlib.contextmanager
def office(folder: Path) -> Iterator[Office]:
    """Serve the page of a box until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with process(folder, "serve", "--port", str(port)) as server:
        end = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert server.poll() is None, (folder / "serve.log").read_text()
            assert time.monotonic() < end, "the page did not start"
            time.sleep(0.1)
        yield Office(folder, f"http://127.0.0.1:{port}")
    assert "Traceback" not in (folder / "serve.log").read_text()
