"""Requests: files by which a command asks the daemon for something.

Commands never write records: they leave a request, and the daemon, the only writer, carries it out.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.contract.layout import Outputs
from runner.files.durable import write_json
from runner.files.plain import read_plain
from runner.files.unreadable import is_of_storage

_REQUEST_BYTES = 65_536  # a request is a line; one that is cut here is no JSON


@dataclass(frozen=True, kw_only=True)
class Request:
    """Something that a command wants of the daemon."""

    path: Path
    verb: str
    args: dict[str, Any]

    def done(self) -> None:
        """Take the request away: it was carried out, or cannot be.

        Raises:
            OSError: it cannot be removed.
        """
        self.path.unlink(missing_ok=True)


def leave_request(outputs: Outputs, verb: str, **args: Any) -> Path:
    """Leave a request for the daemon."""
    outputs.requests.mkdir(parents=True, exist_ok=True)
    path = outputs.requests / f"{time.time_ns():020d}-{secrets.token_hex(4)}.json"
    write_json(path, {"verb": verb, "args": args})
    return path


def read_requests(outputs: Outputs) -> list[Request]:
    """Read what was asked, oldest first; what is no request is read as the verb ''.

    One that cannot be read now is left out: it is taken away by nobody.

    Raises:
        OSError: the folder cannot be listed.
    """
    try:
        paths = sorted(path for path in outputs.requests.iterdir() if path.suffix == ".json")
    except FileNotFoundError:
        return []
    found = []
    for path in paths:
        try:
            content = json.loads(read_plain(path, limit_bytes=_REQUEST_BYTES))
            verb, args = str(content["verb"]), dict(content["args"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            if is_of_storage(error):
                continue  # what it asks for is known once it can be read
            verb, args = "", {}
        found.append(Request(path=path, verb=verb, args=args))
    return found
