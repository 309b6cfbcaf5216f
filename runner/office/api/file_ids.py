"""File ids: the name of an uploaded file begins with its id, and nothing else is kept of it."""

from __future__ import annotations

import hashlib
import re
import secrets

from runner.office.upload import API_FOLDER

FILE_ID = re.compile(r"file-[0-9a-f]{24}")
NAME = re.compile(rf"({FILE_ID.pattern})-(.+)", re.DOTALL)
"""The name of a file under `API_FOLDER`: its id, and the name that it was uploaded under."""


def new_file_id(idempotency_key: str | None) -> str:
    """Make one; the same key makes the same one, also after a restart."""
    if idempotency_key is None:
        return f"file-{secrets.token_hex(12)}"
    return "file-" + hashlib.sha256(b"file\0" + idempotency_key.encode()).hexdigest()[:24]


def file_id_in(path: str) -> str:
    """Give the id of an uploaded file by its path from jobs/; of another file, the path."""
    folder, _, name = path.rpartition("/")
    match = NAME.fullmatch(name) if folder == API_FOLDER else None
    return match[1] if match else path
