"""Log: what happens, as JSON lines in files and as readable lines on the container's output."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

import structlog

from runner.clock import now
from runner.files.durable import Kept, append_line
from runner.words import visible

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
        self._shown = structlog.wrap_logger(
            structlog.PrintLogger(self._stream),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
                _ForPeople(colors=_is_terminal(self._stream)),
            ],
        )
        self._render = structlog.processors.JSONRenderer(serializer=_dump)

    def say(
        self, event: str, *, level: str = "info", run_log: Path | None = None, **facts: Any
    ) -> None:
        """Write one event. Facts are names, numbers and reasons, never a row of data."""
        line = self._render(
            None, level, {"time": now().isoformat(), "level": level, "event": event, **facts}
        )
        for path in (self._path, run_log):
            if path is not None:
                with contextlib.suppress(OSError):  # a full disk: the line is shown below
                    encoded = f"{line!s}\n".encode(errors="backslashreplace")
                    append_line(path, encoded, kept=KEPT if path == self._path else None)
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more: EPIPE, EBADF
            getattr(self._shown, level)(event, **facts)


class _ForPeople:
    """Renders an event as a line, and what is written for people as lines of their own below it."""

    def __init__(self, *, colors: bool) -> None:
        self._line = structlog.dev.ConsoleRenderer(colors=colors, pad_level=False, pad_event_to=0)

    def __call__(self, logger: Any, name: str, event: structlog.typing.EventDict) -> str:
        prose = [f"{key}: {event.pop(key)}" for key in _PROSE if event.get(key)]
        below = [_INDENT + visible(line) for text in prose for line in text.splitlines()]
        return "\n".join([self._line(logger, name, event), *below])


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (OSError, ValueError):  # closed
        return False


def _dump(content: Any, **_ignored: Any) -> str:
    return json.dumps(content, ensure_ascii=False, default=str)
