"""The real page in a process of its own, on a port of this machine, and OpenAI's own client."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
from daemon_box import REPOSITORY, wait_until


@dataclass(frozen=True)
class Api:
    """The API of a box."""

    root: Path
    port: int

    @property
    def key(self) -> str:
        return (self.root / "page" / "key").read_text().strip()

    def client(self, key: str | None = None) -> openai.OpenAI:
        """OpenAI's client, as its users make it."""
        base = f"http://127.0.0.1:{self.port}/v1"
        return openai.OpenAI(base_url=base, api_key=key or self.key, max_retries=0)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> tuple[int, Any]:
        """Ask without a client that would set right what is wrong; give status and JSON."""
        sent = {"Authorization": f"Bearer {self.key if key is None else key}"} if key != "" else {}
        content = json.dumps(body).encode() if isinstance(body, Mapping) else body
        if content is not None:
            sent["Content-Type"] = "application/json"
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=content,
            method=method,
            headers={**sent, **(headers or {})},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text.decode()


@contextmanager
def serving(root: Path, *words: str) -> Iterator[Api]:
    """Serve a box: `runner serve` as people start it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folders = [f"--{name}-dir={root / name}" for name in ("jobs", "outputs", "models", "page")]
    (root / "page").mkdir(exist_ok=True)
    with (root / "page.out").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "runner.cli", "serve", f"--port={port}", *folders, *words],
            cwd=REPOSITORY,
            stdout=output,
            stderr=output,
        )

    def answers() -> bool:
        assert process.poll() is None, (root / "page.out").read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    try:
        wait_until(answers)
        yield Api(root=root, port=port)
    finally:
        process.terminate()
        process.wait(30)
