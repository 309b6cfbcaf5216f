"""Stands in for the model hub: a small HTTP server that speaks the part of its API that fetch uses.

No test can rely on the real hub, on a licence there, or on a token. The client is the real one, in
the real image; what it asks and how it is answered follows the client's own code.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "5af3c1ac0f2e9b7d4c8a6e1f0b9d8c7a6e5f4d3c"
OPEN, GATED, HIDDEN = "law/open", "law/gated", "law/hidden"
ACCEPTED, STRANGER = "hf_accepted", "hf_stranger"  # tokens: the licence was accepted, or not


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        self.server.asked.append(path)
        parts = path.split("/")
        if parts[0] == "api":
            self._api("/".join(parts[2:4]), parts[4:])
        elif parts[2:3] == ["resolve"]:
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._answer(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _refusal(self, repo: str) -> tuple[int, dict[str, str]] | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repo == HIDDEN:  # what the hub also says of a name that does not exist
            return 401, {"X_Error_Code": "RepoNotFound"}
        if repo == GATED and token != ACCEPTED:
            return (403 if token else 401), {"X_Error_Code": "GatedRepo"}
        return None

    def _api(self, repo: str, rest: list[str]) -> None:
        if repo == HIDDEN:
            status, headers = self._refusal(repo) or (500, {})
            self._answer(status, **headers)
            return
        files = self.server.files
        if rest[:1] == ["tree"]:
            answer: Any = [
                {"type": "file", "path": name, "size": len(text), "oid": sha1(text).hexdigest()}
                for name, text in files.items()
            ]
        else:
            siblings = [{"rfilename": name} for name in files]
            answer = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings}
        self._answer(200, json.dumps(answer).encode(), Content_Type="application/json")

    def _file(self, repo: str, revision: str, name: str) -> None:
        refusal = self._refusal(repo)
        if refusal:
            self._answer(refusal[0], **refusal[1])
            return
        text = self.server.files.get(name)
        if text is None or revision != COMMIT:
            self._answer(404, X_Error_Code="EntryNotFound")
            return
        etag = f'"{sha1(text).hexdigest()}"'
        self._answer(200, text, ETag=etag, X_Repo_Commit=COMMIT, Accept_Ranges="bytes")

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


class Hub(ThreadingHTTPServer):
    """Serves the files of one model under several names."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(model: Path, **more: bytes) -> Iterator[Hub]:
    """Serve a model's folder, and other files beside it."""
    files = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
    with Hub(files | more) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()
