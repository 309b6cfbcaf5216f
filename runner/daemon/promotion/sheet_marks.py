"""Spreadsheets with experts' marks, read in a process of its own: a broken one may take it along.

The same process reads spreadsheets of data (`training/data/sheet_child.py`): its memory and its
computing time are bounded there, and what comes out of it and how long that takes, here.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading

from runner.contract.rating import TABLE_BYTES, Marks, marks_in

SHEETS = (".xlsx", ".ods")
_CHILD = "runner.training.data.sheet_child"
_SECONDS = 60.0  # a thousand pairs of long answers take one
_OUT_BYTES = 4 * TABLE_BYTES  # what is packed in the file comes out whole
_PROBLEM = Marks(given={}, problem="it is no spreadsheet that can be read")


def read_sheet_marks(content: bytes) -> Marks:
    """Read the marks of the first sheet of an Excel or OpenDocument file."""
    if len(content) > TABLE_BYTES:
        return Marks(given={}, problem=f"it is larger than {TABLE_BYTES // 1024**2} MiB")
    try:
        lines = _read(content).splitlines()
        if len(lines) < 2 or json.loads(lines[-1]) != "end":
            return _PROBLEM
        rows = [json.loads(line)[1] for line in lines[1:-1]]
    except (OSError, ValueError, LookupError, TypeError):
        return _PROBLEM
    return marks_in(rows)


def _read(content: bytes) -> bytes:
    with open(os.memfd_create("table"), "wb") as table:
        table.write(content)
        table.flush()
        words = [sys.executable, "-m", _CHILD, f"/proc/self/fd/{table.fileno()}"]
        with subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what the library says may quote a cell
            pass_fds=(table.fileno(),),
        ) as child:
            timer = threading.Timer(_SECONDS, child.kill)
            timer.daemon = True  # else a daemon that is asked to leave waits for it
            timer.start()
            try:
                assert child.stdout is not None
                found = child.stdout.read(_OUT_BYTES + 1)
            finally:
                timer.cancel()
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
    return found if len(found) <= _OUT_BYTES else b""
