"""Log: what happens, as JSON lines in files and as readable lines on the container's output."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from runner.clock import now
from runner.files.durable import Kept, append_line
from runner.words import visible, visible_lines

_PROSE = ("reason", "fix")  # sentences and commands: shown unquoted
KEPT = Kept(bytes=10 * 1024 * 1024, files=3)
"""Of the daemon's own log: three files of 10 MiB. An event has some 200 bytes and a run some 15
events, so that is the story of 10,000 runs. A run's own log ends with the run."""
_INDENT = " " * 9  # below the event, beside the time


class Log:
    """The daemon's events; those of a run go into the run's own log as well."""

    def __init__(self, path: Path) -> None:
        """Write to ``path``, of which the newest part is kept, and to standard error."""
        self._path = path
        # None where it was closed before this process began; the lines are in the file, too.
        self._stream = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - as long as the process
        self._colors = _is_terminal(self._stream)

    def say(
        self, event: str, *, level: str = "info", run_log: Path | None = None, **facts: Any
    ) -> None:
        """Write one event. Facts are names, numbers and reasons, never a row of data."""
        line = _dump({"time": now().isoformat(), "level": level, "event": event, **facts})
        for path in (self._path, run_log):
            if path is not None:
                with contextlib.suppress(OSError):  # a full disk: the line is shown below
                    encoded = f"{line}\n".encode(errors="backslashreplace")
                    append_line(path, encoded, kept=KEPT if path == self._path else None)
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more: EPIPE, EBADF
            print(_for_people(event, level, facts, colors=self._colors), file=self._stream)
            self._stream.flush()


# A library for this (structlog) brought rich, pygments and asyncio with it: 10 MiB and 0.2 s at
# each start, a fifth of what the daemon may have.
_DIM, _BOLD, _KEY, _VALUE = "2", "1", "36", "35"  # ECMA-48: faint, bold, cyan, magenta
_LEVELS = {"info": "32", "warning": "33", "error": "31"}  # green, yellow, red


def _for_people(event: str, level: str, facts: dict[str, Any], *, colors: bool) -> str:
    """Render an event as a line, and what is written for people as lines of their own below it."""

    def styled(text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if colors else text

    words = [
        styled(time.strftime("%H:%M:%S"), _DIM),
        f"[{styled(level, _LEVELS.get(level, _BOLD))}]",
        styled(visible_lines(event), _BOLD),
    ]
    words += [
        f"{styled(key, _KEY)}={styled(visible(value), _VALUE)}"
        for key, value in facts.items()
        if not (value and key in _PROSE)
    ]
    prose = [f"{key}: {facts[key]}" for key in _PROSE if facts.get(key)]
    below = [_INDENT + visible(line) for text in prose for line in text.splitlines()]
    return "\n".join([" ".join(words), *below])


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (OSError, ValueError):  # closed
        return False


def _dump(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, default=str)
