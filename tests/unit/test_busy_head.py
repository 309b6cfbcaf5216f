"""A head with many boxes: what one round of its loop does, and what it does not wait for."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import pytest
from test_space import daemon, live

from runner.daemon.book import Live
from runner.daemon.daemon import Daemon
from runner.daemon.heartbeat import Heartbeat
from runner.daemon.stages import start
from runner.files.durable import TEMPORARY_PREFIX, show_json

__all__ = ["daemon"]  # a fixture of the neighbour's


class _Boxes:
    """Counts what is said to the boxes."""

    beats = 0

    def beat(self, at: float) -> None:
        """Say it."""
        self.beats += 1


@pytest.mark.parametrize(("first_waits", "placed"), [(False, 3), (True, 1)])
def test_trainings_are_placed_as_far_as_a_round_has_time(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, *, first_waits: bool, placed: int
) -> None:
    """And the boxes hear of them in one word; behind one that waits for the disk nobody starts."""
    waiting = live(daemon)
    names = [f"job{number}" for number in range(3)]
    prepared = [
        Live(run=waiting.run, record=waiting.record.but(job=name), asked=waiting.asked)
        for name in names
    ]
    turns: list[str] = []

    def start_far(_daemon: Daemon, prepared: Sequence[Live], *_: Any) -> bool:
        if not prepared:
            return False
        turns.append(prepared[0].record.job)
        if not first_waits:
            child: Any = object()
            prepared[0].child = child
        return True

    monkeypatch.setattr(start, "_start_far", start_far)
    boxes: Any = _Boxes()
    daemon.cluster = boxes
    assert start._start_all_far(daemon, prepared, [], [], 0.0)
    assert (turns, boxes.beats) == (names[:placed], 1)
    assert not start._start_all_far(daemon, [], [], [], 0.0)
    assert boxes.beats == 1


def test_a_heartbeat_waits_for_no_disk(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written in each round in which a card changes; after a power cut it says nothing."""

    def never(_: int) -> None:
        raise AssertionError("the loop waits for the disk")

    monkeypatch.setattr(os, "fsync", never)
    Heartbeat(daemon).beat(1000.0)
    assert json.loads(daemon.outputs.heartbeat.read_bytes())["pid"] == os.getpid()
    with pytest.raises(ValueError, match="JSON"):
        show_json(daemon.outputs.heartbeat, float("nan"))
    left = [one.name for one in daemon.outputs.heartbeat.parent.iterdir()]
    assert not [name for name in left if name.startswith(TEMPORARY_PREFIX)]
