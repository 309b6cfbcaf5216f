"""Progress and ETA of a run, from its record and the last lines of its metrics."""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner.clock import now
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.record_head import RecordHead
from runner.contract.states import State

TAIL_BYTES = 64 * 1024  # some 200 lines of metrics: enough for a rate, cheap on a long run
STARTING = "loading the model and trying the largest batch"
"""What an attempt does before its first step."""
RATE_STEPS = 20  # steps that the ETA is taken from: it follows a change of plan within a minute


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where the training of one run stands."""

    step: int = 0
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    gpu_memory_bytes: int | None = None
    eta_seconds: float | None = None
    """What is left of the training; None while no rate is known, or learning rates are tried."""

    @property
    def share(self) -> float:
        """How much of the training is done, 0 to 1."""
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0


def read_tail(path: Path, limit: int = TAIL_BYTES) -> list[dict[str, Any]]:
    """Read the last whole JSON lines of a file that may be growing; a missing one has none."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - limit))
            content = file.read(limit)
    except OSError:
        return []
    lines = []
    for line in content.split(b"\n"):
        try:
            value = json.loads(line)
        except ValueError:  # the cut first line, or the last one while it is being written
            continue
        if isinstance(value, dict):
            lines.append(value)
    return lines


def time_of(line: dict[str, Any]) -> float | None:
    """Give a line's time in seconds since 1970, from ISO 8601 or a number."""
    value = line.get("time")
    if isinstance(value, int | float):
        return float(value)
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def steps_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the lines that tell of an optimizer step; the others are evaluations."""
    return [x for x in lines if isinstance(x.get("step"), int) and "loss" in x]


def step_times(metrics: Path) -> list[float]:
    """Give the times (seconds since 1970) at which the newest steps ended."""
    return [time for x in steps_of(read_tail(metrics)) if (time := time_of(x)) is not None]


def seconds_left(steps: list[dict[str, Any]], total: int | None, clock: float) -> float | None:
    """Forecast the rest of a training from its last steps; the median ignores an evaluation."""
    times = [time for line in steps[-RATE_STEPS - 1 :] if (time := time_of(line)) is not None]
    if total is None or len(times) < 2:
        return None
    per_step = statistics.median(b - a for a, b in itertools.pairwise(times))
    left = max(0, total - int(steps[-1]["step"]))
    # A step that is under way counts, but a stalled one must not push the forecast below zero.
    return max(0.0, left * per_step - min(per_step, max(0.0, clock - times[-1])))


def measuring_left(
    lines: list[dict[str, Any]], step: int, total: int | None, forecast: float | None = None
) -> float:
    """Forecast what the held-out measurements still take: the pace of those seen, else a forecast.

    A measurement's line follows its step's, so the time between them is what it took.

    Args:
        lines: the newest metrics.
        step: the step that has ended.
        total: of the run.
        forecast: seconds that all measurements of the run were forecast to take.
    """
    if not total or step >= total:
        return 0.0
    found: list[tuple[int, float]] = []  # step and seconds
    for before, line in itertools.pairwise(lines):
        began, ended = time_of(before), time_of(line)
        same = isinstance(line.get("step"), int) and before.get("step") == line["step"]
        if same and "loss" in before and "eval_loss" in line and began and ended:
            found.append((line["step"], max(0.0, ended - began)))
    if not found:
        return (forecast or 0.0) * (total - step) / total
    (*earlier, (last, seconds)) = found
    every = last - earlier[-1][0] if earlier else last  # the first one falls after as many steps
    return seconds * math.ceil((total - last) / max(1, every))


def progress_of(
    lines: list[dict[str, Any]], record: RecordHead, clock: float | None = None
) -> Progress:
    """Decide where a run stands from the metrics of its newest attempt."""
    steps = steps_of(lines)
    evaluations = [x["eval_loss"] for x in lines if isinstance(x.get("eval_loss"), int | float)]
    last = steps[-1] if steps else {}
    done = max((a.last_step or 0 for a in record.attempts), default=0)
    training = record.state is State.TRAINING
    clock = now().timestamp() if clock is None else clock
    step = last.get("step", done)
    is_trial = record.rates is not None and record.rates.next_trial is not None
    total = record.rates.steps if record.rates and is_trial else record.total_steps
    left = seconds_left(steps, total, clock) if training and not is_trial else None
    if left is not None:
        forecast = record.forecast.get("measuring_seconds")
        known = forecast if isinstance(forecast, int | float) else None
        left += measuring_left(lines, step, total, known)
    return Progress(
        step=step,
        total_steps=total,
        epoch=last.get("epoch"),
        loss=last.get("loss"),
        eval_loss=evaluations[-1] if evaluations else None,
        learning_rate=last.get("learning_rate"),
        tokens_per_second=last.get("tokens_per_second"),
        gpu_memory_bytes=last.get("gpu_memory_bytes"),
        eta_seconds=left,
    )


def read_progress(run: RunFolder, record: RecordHead) -> Progress:
    """Read where a run stands."""
    folder = run.attempt(1)
    if record.attempts:
        folder = run.attempt(record.attempts[-1].number, record.attempts[-1].token)
    if record.rates is not None and (trial := record.rates.next_trial) is not None:
        folder = run.rate(trial + 1).attempt(1, record.rates.trials[trial].token)
    return progress_of(read_tail(StageFolder(folder).metrics), record)
