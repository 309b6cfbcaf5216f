"""Columns of a data file, and its first rows: read in a child that what it reads cannot harm.

    python -m runner.office.columns /proc/self/fd/3 contracts.csv

The page itself opens the file, and parses nothing of it: a table may be made to take memory, and
what reads Parquet would stay in it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from runner.errors import RunnerError
from runner.files.beneath import Folder
from runner.office.box import Box
from runner.training.data.columns import Meaning, row_key

ROWS = 3  # shown
_COLUMNS = 60  # shown; a table with more is mapped by writing names
_CHARACTERS = 300  # of one cell
_SECONDS = 30.0
_MEMORY_BYTES = 2 * 1024**3


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What a data file looks like."""

    names: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    """Of the first rows, a text for each name."""
    prompt: str = ""
    """The column that would be taken for the question; empty: none is known by its name."""
    completion: str = ""
    problem: str = ""
    """Why nothing can be shown; the checks say more."""


def columns_of(box: Box, path: str) -> Columns:
    """Look into a data file in the inbox. Waits for the disk and a child.

    Raises:
        UnsafePathError: a link is in the way.
        OSError: it is not there.
    """
    with Folder.open(box.jobs_dir) as inbox:
        descriptor = inbox.open_file(path)
    command = [sys.executable, "-m", __spec__.name, f"/proc/self/fd/{descriptor}", path]
    try:
        told = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=[descriptor],
            timeout=_SECONDS,
            check=True,
        ).stdout
        found = json.loads(told)
        rows = tuple(tuple(map(str, row)) for row in found["rows"])
        return Columns(**{**found, "names": tuple(found["names"]), "rows": rows})
    except (subprocess.SubprocessError, ValueError, TypeError, KeyError):
        return Columns(problem="unreadable")
    finally:
        os.close(descriptor)


def look(path: Path, shown_as: str) -> dict[str, object]:
    """Read the first rows, and guess which columns are meant."""
    from runner.training.data.findings import Findings  # noqa: PLC0415 - in the child alone
    from runner.training.data.rows import stream_rows  # noqa: PLC0415

    findings = Findings()
    rows = list(itertools.islice(stream_rows(path, shown_as=shown_as, findings=findings), ROWS))
    names = list(dict.fromkeys(name for row in rows for name in row.value))[:_COLUMNS]
    meant = {row_key(name).meaning: name for name in reversed(names)}
    return {
        "names": names,
        "rows": [[_cell(row.value.get(name)) for name in names] for row in rows],
        "prompt": meant.get(Meaning.QUESTION, ""),
        "completion": meant.get(Meaning.ANSWER, ""),
        "problem": "" if rows else "empty",
    }


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None else text[:_CHARACTERS]


def main(arguments: list[str]) -> int:
    """Print what was found, as JSON."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    # Its own number, for a child of this one reads spreadsheets.
    path = Path(arguments[0].replace("/self/", f"/{os.getpid()}/"))
    try:
        found = look(path, arguments[1])
    except RunnerError:
        found = {"names": [], "rows": [], "problem": "unreadable"}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
