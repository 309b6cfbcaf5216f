"""Turns heartbeats into well and not well, as the container's health check tells them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runner.commands.health import health, judge
from runner.contract.layout import Outputs

NOW = datetime(2026, 11, 23, 22, 0, tzinfo=UTC)


def beat(seconds_ago: float, **more: Any) -> dict[str, Any]:
    """Write a heartbeat as the daemon does."""
    return {"time": (NOW - timedelta(seconds=seconds_ago)).isoformat(), "running": [], **more}


@pytest.mark.parametrize(
    ("heartbeat", "well"),
    [
        (None, False),
        ({}, False),
        ({"time": "yesterday"}, False),
        ({"time": 7}, False),
        (beat(0), True),
        (beat(34), True),
        (beat(36), False),
        (beat(-3600), False),
        (beat(5, inbox="the inbox is unavailable"), True),
        (beat(5, held="the GPU was lost"), True),
        (beat(5, unwell="the GPU is lost"), False),
    ],
)
def test_the_last_heartbeat_decides(heartbeat: dict[str, Any] | None, *, well: bool) -> None:
    """Three missed beats are a hang; a clock that was set back is noticed; a full queue is well."""
    assert judge(heartbeat, NOW).well is well


def test_every_verdict_has_a_reason() -> None:
    """`docker inspect` shows the reason: how old the heartbeat is, or what the daemon does."""
    assert judge(beat(90), NOW).reason == "the last heartbeat is 90 s old"
    assert judge(beat(5, running=["a"], waiting=2), NOW).reason == "running 1, waiting 2"
    assert judge(beat(5, unwell="the GPU is lost"), NOW).reason == "the GPU is lost"


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"time": '])
def test_an_unreadable_heartbeat_is_not_well(tmp_path: Any, content: bytes) -> None:
    """Whatever lies there, the check answers and does not break."""
    outputs = Outputs(tmp_path)
    assert not health(outputs).well
    outputs.private.mkdir()
    outputs.heartbeat.write_bytes(content)
    assert health(outputs).reason == "the heartbeat cannot be read"
