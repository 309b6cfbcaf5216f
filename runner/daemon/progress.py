"""Turns the end of a metrics.jsonl into where a run stands and when it will be done."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

_TAIL_BYTES = 65_536  # a few hundred lines


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where the train stage stands."""

    step: int
    loss: float | None
    tokens_per_second: float | None
    seconds_per_step: float | None


def _time(value: object) -> float | None:
    if isinstance(value, int | float):
        return float(value)
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except ValueError:
        return None


def _steps(metrics: Path) -> list[dict[str, Any]]:
    """Read the newest steps' lines; one that is being written is left out."""
    try:
        with metrics.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    steps = []
    for line in lines:
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict) and isinstance(fields.get("step"), int) and "loss" in fields:
            steps.append(fields)
    return steps


def step_times(metrics: Path) -> list[float]:
    """Give the times (seconds since 1970) at which the newest steps ended."""
    times = [_time(fields.get("time")) for fields in _steps(metrics)]
    return [time for time in times if time is not None]


def read_progress(metrics: Path) -> Progress | None:
    """Read where training stands."""
    steps = _steps(metrics)
    if not steps:
        return None
    newest, oldest = steps[-1], steps[max(0, len(steps) - 20)]
    between = [_time(oldest.get("time")), _time(newest.get("time"))]
    pace = None
    if between[0] is not None and between[1] is not None and newest["step"] > oldest["step"]:
        pace = (between[1] - between[0]) / (newest["step"] - oldest["step"])
    return Progress(
        step=newest["step"],
        loss=_number(newest.get("loss")),
        tokens_per_second=_number(newest.get("tokens_per_second")),
        seconds_per_step=pace,
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
