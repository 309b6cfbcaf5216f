"""The real page in a process of its own, on a Unix socket, and a client that plays the door."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

_START_SECONDS = 60.0
ORIGIN = "http://localhost"


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class PageServer:
    """The page of a box, and how to ask it."""

    folder: Path
    socket_path: Path
    process: subprocess.Popen[bytes]
    log: Path
    cookie: str = ""

    @property
    def key(self) -> str:
        return (self.folder / "page" / "key").read_text().strip()

    def connect(self, timeout: float = 60.0) -> _Connection:
        return _Connection(self.socket_path, timeout)

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        signed_in: bool = True,
    ) -> Answer:
        """Ask once; as a browser that is signed in, where nothing else is said."""
        sent = {"Accept": "text/html", "Host": "localhost"}
        if method not in ("GET", "HEAD"):
            sent["Origin"] = ORIGIN
        if signed_in and self.cookie:
            sent["Cookie"] = f"box_session={self.cookie}"
        if isinstance(body, Mapping):
            body = urlencode(body).encode()
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        sent.update(headers or {})
        connection = self.connect()
        try:
            connection.request(method, path, body=body, headers=sent)
            found = connection.getresponse()
            return Answer(found.status, found.headers, found.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """Look at a page."""
        return self.ask("GET", path, headers={n.replace("_", "-"): v for n, v in headers.items()})

    def post(self, path: str, **fields: str) -> Answer:
        """Send a form."""
        return self.ask("POST", path, body=fields)

    def sign_in(self, key: str | None = None, **headers: str) -> Answer:
        """Sign in as a browser does, and keep the cookie where there is one."""
        answer = self.ask(
            "POST", "/sign-in", body={"key": key or self.key}, headers=headers, signed_in=False
        )
        sent = answer.headers.get("set-cookie", "")
        if sent.startswith("box_session="):
            self.cookie = sent.partition("=")[2].partition(";")[0]
        return answer


def _listens(path: Path) -> bool:
    with closing(socket.socket(socket.AF_UNIX)) as asked:
        return path.exists() and asked.connect_ex(str(path)) == 0  # it is bound before it listens


@contextmanager
def serving(folder: Path, **environment: str) -> Iterator[PageServer]:
    """Serve a box's page until the block ends; its folders are made where they are missing."""
    for name in ("jobs", "outputs", "models"):
        (folder / name).mkdir(exist_ok=True, parents=True)
    # Short: a socket's path has at most 107 bytes, and a test's folder may have more.
    socket_path = Path(f"/tmp/page-{os.getpid()}-{time.monotonic_ns()}.sock")
    log = folder / "page.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "runner.cli", "serve", "--socket", str(socket_path)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={
                **{n: v for n, v in os.environ.items() if not n.startswith("RUNNER_")},
                "PYTHONPATH": str(Path(__file__).parents[2]),
                **environment,
            },
        )
    try:
        end = time.monotonic() + _START_SECONDS
        while not _listens(socket_path):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, "the page did not start"
            time.sleep(0.05)
        yield PageServer(folder, socket_path, process, log)
        assert "Traceback" not in log.read_text()  # no request brings forth a defect
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        socket_path.unlink(missing_ok=True)
