"""Events of a job: its log and its training's metrics as one list, the newest first.

Both are read from their ends: who follows a run of a million steps asks for the last ones.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.contract.layout import RunFolder, StageFolder
from runner.contract.progress import time_of
from runner.contract.record_head import Attempt, RecordHead
from runner.files.plain import open_plain
from runner.report.curve import counts

_BLOCK_BYTES = 64 * 1024
_LINE_BYTES = 1024 * 1024  # a step's line has some 300 bytes, and 8 for each row of its batch
_LEVELS = {"warning": "warn", "error": "error"}
_DATA = {
    "loss": "train_loss",
    "eval_loss": "valid_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "tokens_seen": "tokens_seen",
    "tokens_per_second": "tokens_per_second",
    "gpu_memory_bytes": "gpu_memory_bytes",
}


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of a log or of metrics."""

    id: str
    time: float
    """Seconds since 1970."""
    line: dict[str, Any]
    attempt: int | None
    """None: it is a line of the log."""


def read_events(run: RunFolder, record: RecordHead) -> Iterator[Event]:
    """Give a run's events, the newest first; steps that a later attempt made again count once."""
    sources = [_read(run.log, run, None), *(_of_attempt(run, one) for one in record.attempts)]
    return heapq.merge(*sources, key=lambda event: event.time, reverse=True)


def _of_attempt(run: RunFolder, attempt: Attempt) -> Iterator[Event]:
    folder = StageFolder(run.attempt(attempt.number, attempt.token))
    for event in _read(folder.metrics, run, attempt.number):
        step = event.line.get("step")
        if isinstance(step, int) and counts(step, attempt, is_evaluation="eval_loss" in event.line):
            yield event


def event_object(event: Event, *, total_steps: int | None) -> dict[str, Any]:
    """Make what a client sees of one."""
    line = event.line
    shown: dict[str, Any] = {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": int(event.time),
        "level": _LEVELS.get(str(line.get("level")), "info"),
    }
    if event.attempt is None:
        reason = line.get("reason")
        said = str(line.get("event", "")) + (f": {reason}" if reason else "")
        return shown | {"type": "message", "message": said, "data": {}}
    step = f"Step {line['step']}" + (f"/{total_steps}" if total_steps else "")
    numbers = {
        name: line[key]
        for key, name in _DATA.items()
        if isinstance(line.get(key), int | float) and math.isfinite(line[key])
    }
    losses = {"train_loss": "training loss", "valid_loss": "validation loss"}
    said = ", ".join(
        f"{word}={numbers[name]:.4f}" for name, word in losses.items() if name in numbers
    )
    data = {"step": line["step"], "total_steps": total_steps, **numbers}
    return shown | {"type": "metrics", "message": f"{step}: {said}", "data": data}


def _read(path: Path, run: RunFolder, attempt: int | None) -> Iterator[Event]:
    source = "log" if attempt is None else f"{attempt:02d}"
    for offset, line in lines_backwards(path):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # torn by a power cut, or being written
            continue
        time = time_of(value) if isinstance(value, dict) else None
        if time is not None and math.isfinite(time):
            id_ = f"ftevent-{run.run_id}-{source}-{offset}"
            yield Event(id=id_, time=time, line=value, attempt=attempt)


def lines_backwards(path: Path) -> Iterator[tuple[int, bytes]]:
    """Give a file's whole lines from its end, each with its place in bytes.

    What is no plain file, or is not there, has none.
    """
    try:
        descriptor = open_plain(path)
    except OSError:
        return
    with open(descriptor, "rb") as file:
        end = os.fstat(descriptor).st_size
        rest = b""
        while end > 0:
            begin = max(0, end - _BLOCK_BYTES)
            file.seek(begin)
            block = file.read(end - begin) + rest
            if len(block) > _LINE_BYTES + _BLOCK_BYTES and b"\n" not in block:
                return  # a line far too long is not ours
            first, *lines = block.split(b"\n")
            places = itertools.accumulate(
                (len(line) + 1 for line in [first, *lines]), initial=begin
            )
            for place, line in list(zip(places, [first, *lines], strict=False))[:0:-1]:
                if line:
                    yield place, line
            rest, end = first, begin
        if rest:
            yield 0, rest
