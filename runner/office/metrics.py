"""Metrics: what monitors ask of the box: /healthz without a key, and /metrics for Prometheus.

All is read from files at each scrape. Labels are job names and states; their number is bounded.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from runner.clock import this_boot, uptime_seconds
from runner.commands.health import STALE_SECONDS
from runner.contract.card_shown import HEARTBEAT_BYTES, CardShown, cards_in
from runner.contract.ended import EndedRun, sort_out
from runner.contract.layout import Outputs
from runner.contract.progress import Progress, read_progress
from runner.contract.record_head import RecordHead, read_head
from runner.contract.states import State
from runner.errors import RunnerError
from runner.files.plain import read_plain
from runner.office.box import Box
from runner.words import visible

MOST_JOBS = 200
"""Jobs that have a line of their own, the last to end first: each is a series for ever."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a scrape found."""

    heartbeat_age_seconds: float | None
    """None: there is none, or it is from before the machine's last start."""
    unwell: bool
    states: Counter[str]
    last_success: dict[str, float]
    """Job → seconds since 1970."""
    training: dict[str, Progress]
    """Job → how far its run is that trains now."""
    cards: tuple[CardShown, ...] = ()
    """Where the box has several."""
    free_bytes: dict[str, int]
    """Folder → free disk space."""


def healthz(_request: Request, box: Box) -> dict[str, str]:
    """Say that the page answers, and whether the daemon's heartbeat is fresh."""
    age = heartbeat_age(_heartbeat(box.outputs))
    daemon = "none" if age is None else "fresh" if age <= STALE_SECONDS else "stale"
    return {"status": "ok", "daemon": daemon}


def scrape(_request: Request, box: Box) -> Response:
    """Give the metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(look(box)))
    return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})


def look(box: Box) -> Seen:
    """Read what there is."""
    heartbeat = _heartbeat(box.outputs)
    found = sort_out(box.outputs)
    live, more = _read(found.to_read)
    ended = [*found.ended.values(), *more]
    states = Counter(one.state for one in ended) + Counter(one.state.value for one, _ in live)
    return Seen(
        heartbeat_age_seconds=heartbeat_age(heartbeat),
        unwell=bool(heartbeat.get("unwell") or heartbeat.get("held")),
        states=states,
        last_success=last_success(ended),
        training={
            record.job: progress for record, progress in live if record.state is State.TRAINING
        },
        cards=cards_in(heartbeat),
        free_bytes=_free(box),
    )


def last_success(ended: list[EndedRun], most: int = MOST_JOBS) -> dict[str, float]:
    """Give when each job last succeeded; of very many jobs, those that did so last."""
    found: dict[str, float] = {}
    for one in ended:
        if one.state != State.SUCCEEDED:
            continue
        try:
            at = datetime.fromisoformat(one.ended_at).timestamp()
        except ValueError:
            continue
        found[one.job] = max(at, found.get(one.job, 0.0))
    return dict(sorted(found.items(), key=lambda job: -job[1])[:most])


def heartbeat_age(heartbeat: dict[str, Any]) -> float | None:
    """Give how old the heartbeat is, in seconds, by the machine's uptime: clocks jump."""
    age = heartbeat.get("uptime")
    if not isinstance(age, int | float) or heartbeat.get("boot") != this_boot():
        return None
    return max(0.0, uptime_seconds() - age)


def _heartbeat(outputs: Outputs) -> dict[str, Any]:
    try:
        found = json.loads(read_plain(outputs.heartbeat, limit_bytes=HEARTBEAT_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(runs: list[Any]) -> tuple[list[tuple[RecordHead, Progress]], list[EndedRun]]:
    """Read the runs of which only the record tells: live ones, and such as have just ended."""
    live, ended = [], []
    for run in runs:
        try:
            record = read_head(run.record)
        except (OSError, RunnerError):
            continue
        if record.state.is_final:
            ended.append(EndedRun.of(record, (0, 0)))
        else:
            live.append((record, read_progress(run, record)))
    return live, ended


def _free(box: Box) -> dict[str, int]:
    found = {}
    for name, folder in (("jobs", box.jobs_dir), ("outputs", box.outputs_dir)):
        try:
            disk = os.statvfs(folder)
        except OSError:
            continue
        found[name] = disk.f_bavail * disk.f_frsize
    return found


class _Once:
    """A collector of what was seen."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        return families(self._seen)


def families(seen: Seen) -> Iterator[Metric]:
    """Make the metrics; every state has a line, also where no run is in it."""
    age = seen.heartbeat_age_seconds
    is_up = age is not None and age <= STALE_SECONDS
    yield _one("daemon_up", "1: the daemon's heartbeat is fresh.", float(is_up))
    yield _one("daemon_unwell", "1: it holds the queue: lost GPU, full disk.", float(seen.unwell))
    if age is not None:
        yield _one("daemon_heartbeat_age_seconds", "How old the heartbeat is.", age)
    waiting = sum(seen.states[state] for state in (State.QUEUED, State.PREPARING))
    yield _one("queue_length", "Runs that wait or are prepared.", float(waiting))
    states = {state.value: float(seen.states[state.value]) for state in State}
    yield _family("runs", "Runs on the box by state.", "state", states)
    done = "When a job last succeeded, seconds since 1970."
    yield _family("job_last_success_timestamp_seconds", done, "job", seen.last_success)
    for field, name, what in _OF_TRAINING:
        values = {job: getattr(one, field) for job, one in seen.training.items()}
        yield _family(name, f"{what} of the run that trains now.", "job", values)
    lost = {card.title: float(bool(card.problem)) for card in seen.cards}
    yield _family("card_lost", "1: nothing starts on this card.", "card", lost)
    busy = {card.title: float(bool(card.run_id)) for card in seen.cards}
    yield _family("card_busy", "1: a run is at work on this card.", "card", busy)
    cards = Counter(card.job for card in seen.cards if card.job)
    yield _family("job_cards", "Cards that a job is at work on.", "job", dict(cards))
    free = {folder: float(size) for folder, size in seen.free_bytes.items()}
    yield _family("disk_free_bytes", "Free disk space under a folder.", "folder", free)


_OF_TRAINING = (
    ("step", "training_step", "Optimizer steps done"),
    ("total_steps", "training_total_steps", "Optimizer steps in all"),
    ("loss", "training_loss", "Loss of the last step"),
    ("eval_loss", "training_held_out_loss", "Last loss on held-out rows"),
    ("tokens_per_second", "training_tokens_per_second", "Tokens a second"),
    ("gpu_memory_bytes", "training_gpu_memory_bytes", "GPU memory"),
    ("eta_seconds", "training_eta_seconds", "Seconds that are left of the training"),
)


def _one(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"finetuning_box_{name}", what, value=value)


def _family(name: str, what: str, label: str, values: dict[str, Any]) -> Metric:
    family = GaugeMetricFamily(f"finetuning_box_{name}", what, labels=[label])
    for key, value in values.items():
        if isinstance(value, int | float) and math.isfinite(value):
            family.add_metric([visible(key)], float(value))
    return family
