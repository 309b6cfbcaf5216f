"""Files of a run that may be taken away: which there are, and parts of them by HTTP ranges."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from runner.contract.layout import RunFolder
from runner.errors import RunnerError, UnsafePathError
from runner.files.beneath import Folder, split_relative
from runner.office.box import Box

FOLDERS = ("adapter", "merged", "gguf")
"""Folders of a run whose files may be taken away: what was made for use elsewhere."""
FILES = (
    "report.html",
    "evaluation/answers.txt",
    "evaluation/scores.json",
    "prepared/bad_rows.txt",
    "spec.yaml",
    "run.json",
    "log.jsonl",
)
_SHOWN = 200  # files of one folder; a merged model has some dozens


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A file of a run."""

    path: str
    size_bytes: int


def may_be_taken(path: str) -> bool:
    """Whether a file of a run's folder may be taken away, by its path within it."""
    try:
        parts = split_relative(path)
    except UnsafePathError:
        return False
    if any(part.startswith(".") for part in parts) or "/".join(parts) != path:
        return False
    return path in FILES or (parts[0] in FOLDERS and len(parts) > 1)


def files_of(run: RunFolder) -> list[RunFile]:
    """List what may be taken away; links are left out."""
    found = []
    with Folder.open(run.root) as root:
        for name in FOLDERS:
            found += _listed(root, name)
        for path in FILES:
            try:
                status = root.stat(path)
            except (OSError, RunnerError):
                continue
            if stat.S_ISREG(status.st_mode):
                found.append(RunFile(path=path, size_bytes=status.st_size))
    return found


def _is_offered(name: str) -> bool:
    """Whether a file's name can stand in an address: half a character cannot."""
    return not name.startswith(".") and name == name.encode(errors="ignore").decode()


def _listed(root: Folder, name: str) -> list[RunFile]:
    try:
        with root.open_folder(name) as folder:
            listed = sorted(
                (entry.name, status.st_size)
                for entry, status in folder.scan_status(_is_offered)
                if stat.S_ISREG(status.st_mode)
            )
    except (OSError, RunnerError):
        return []
    return [RunFile(path=f"{name}/{one}", size_bytes=size) for one, size in listed[:_SHOWN]]


def open_file(box: Box, run: RunFolder, path: str) -> int:
    """Open one of them and give its descriptor; no link is followed on the way.

    Raises:
        HTTPException: 404, it is not there, or may not be taken away.
    """
    if not may_be_taken(path):
        raise HTTPException(404)
    try:
        with Folder.open(box.outputs_dir) as outputs:
            return outputs.open_file(f"{run.job}/{run.run_id}/{path}")
    except (OSError, RunnerError) as error:
        raise HTTPException(404) from error


class _WholeError(Exception):
    """As much was sent as was announced."""


class FileAnswer(FileResponse):
    """An open file as a download, whole or in the ranges asked for.

    A file that grows meanwhile, such as a log, is sent as long as it was when it was opened.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        """Take ownership of the descriptor."""
        self._descriptor = descriptor
        # By its descriptor: nothing that is put under its name meanwhile is read instead.
        super().__init__(
            f"/proc/self/fd/{descriptor}",
            media_type="application/octet-stream",
            filename=name,
            stat_result=os.fstat(descriptor),
            # Nothing is shown in the browser, whatever is in it.
            headers={"content-security-policy": "sandbox; default-src 'none'"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and close it however that ends."""
        left = 0

        async def as_announced(message: Message) -> None:
            nonlocal left
            if message["type"] == "http.response.start":
                left = int(Headers(raw=message["headers"]).get("content-length", "0"))
                await send(message)
                return
            body = message.get("body", b"")[:left]
            left -= len(body)
            await send({**message, "body": body, "more_body": left > 0 and message["more_body"]})
            if not left:
                raise _WholeError

        try:
            await super().__call__(scope, receive, as_announced)
        except _WholeError:
            pass
        finally:
            os.close(self._descriptor)
