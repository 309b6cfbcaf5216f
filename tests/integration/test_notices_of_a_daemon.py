"""Notices of the real daemon, sent by the real command to a real web server on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from daemon_box import REPOSITORY, Box, wait_until

from runner.contract.states import State


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """An empty box."""
    return Box(tmp_path)


@pytest.fixture
def hook():
    """A web server, and what it was sent."""
    got: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"json://127.0.0.1:{server.server_port}/hook", got
    server.shutdown()
    server.server_close()


def notify(box: Box, *words: str) -> list[str]:
    urls = str(box.root / "notify.urls")
    folder = str(box.outputs.notices)
    command = [sys.executable, "-m", "runner.cli", "notify", "--folder", folder, "--urls", urls]
    return [*command, *words]


def left(box: Box) -> dict[str, str]:
    """Give each run's kind of notice."""
    found = [json.loads(path.read_text()) for path in box.outputs.notices.glob("*.json")]
    return {one["job"]: one["kind"] for one in found}


def test_each_end_is_told_once(box: Box, hook) -> None:
    """A run that succeeds, one that fails: a notice each, sent once however often it is tried."""
    url, got = hook
    (box.root / "notify.urls").write_text(url)
    box.drop("contracts")
    box.drop("letters", train=["bare 70", "bare 70", "bare 70", "bare 70"])
    box.once()
    states = {record.job: record.state for record in box.records()}
    assert states == {"contracts": State.SUCCEEDED, "letters": State.FAILED}
    assert left(box)["letters"] == "failed"
    for _ in range(2):
        done = subprocess.run(
            notify(box, "--once"), cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert sorted(one["title"].partition(":")[0] for one in got) == ["contracts", "letters"]
    assert str(box.root) not in json.dumps(got), "no path of the box leaves it"


def test_a_daemon_killed_before_the_notice_leaves_it_at_the_next_start(box: Box) -> None:
    """Between the record and the notice a power cut loses nothing: who is to be told is told."""
    box.drop("contracts")
    box.once()
    (notice,) = box.outputs.notices.glob("*.json")
    before = json.loads(notice.read_text())
    # What a kill at that point leaves: the record, no notice, and no line in the index.
    notice.unlink()
    box.outputs.ended.write_bytes(b"")
    box.once()
    assert json.loads(notice.read_text()) == before


def test_the_sender_that_is_killed_goes_on_where_it_was(box: Box, hook) -> None:
    """Started again it tells what is new, and not again what was sent."""
    url, got = hook
    (box.root / "notify.urls").write_text(url)
    box.drop("contracts")
    box.once()
    for number, name in enumerate(("contracts", "letters"), start=1):
        sender = subprocess.Popen(
            notify(box), cwd=REPOSITORY, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        try:
            wait_until(lambda number=number: len(got) >= number)
            wait_until(lambda n=number: len(list(box.outputs.notices_sent.glob("*.json"))) == n)
        finally:
            sender.send_signal(signal.SIGKILL)
            sender.wait()
        assert got[-1]["title"].startswith(name)
        if number == 1:
            box.drop("letters")
            box.once()
    assert len(got) == 2
